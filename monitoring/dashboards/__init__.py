"""The dashboards of Freshet, as code. `python -m monitoring.dashboards` writes them where Grafana is provisioned from."""

from collections.abc import Callable, Mapping
from pathlib import Path

from monitoring.dashboards import kafka, labels, learning, overview, serving, tokens
from monitoring.dashboards.builder import Json

DIRECTORY = Path(__file__).parents[2] / "docker" / "grafana" / "dashboards"
DASHBOARDS: Mapping[str, Callable[[], Json]] = {
    "overview": overview.build,
    "learning": learning.build,
    "labels": labels.build,
    "tokens": tokens.build,
    "serving": serving.build,
    "kafka": kafka.build,
}
LEFT_OUT: Mapping[str, str] = {
    "process_virtual_memory_bytes": "addresses that are reserved, most of them never used; resident memory is shown",
}
