"""A Prometheus configuration that finds the processes of one Freshet. `freshet up` writes it, and it is run as it is."""

import json
from collections.abc import Mapping
from pathlib import Path

JOB = "freshet"
SCRAPE_SECONDS = 5  # `python -m benchmarks scrape` tells what that costs
ALERTS = Path(__file__).parent / "alerts.yml"
CONFIGURATION = "prometheus.yml"
_TARGETS = "targets.json"


def write(directory: Path, targets: Mapping[str, str]) -> Path:
    """Write the configuration and, beside it, its targets; returns the file to give to Prometheus.

    Prometheus looks at the targets again when they change, so a Freshet that was started again on other ports is found by itself.

    Args:
        targets: process -> host:port of its /metrics.
    """
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    _replace(directory / _TARGETS, json.dumps(_groups(targets), indent=2) + "\n")
    _replace(directory / CONFIGURATION, _configuration(directory / _TARGETS))
    return directory / CONFIGURATION


def _groups(targets: Mapping[str, str]) -> list[dict[str, object]]:
    return [{"targets": [address], "labels": {"process": process}} for process, address in targets.items()]


def _configuration(targets: Path) -> str:
    """YAML; a JSON string is one of YAML's."""
    return f"""\
# Written by `freshet up`. Run it: prometheus --config.file={CONFIGURATION} --web.listen-address=127.0.0.1:9090
global:
  scrape_interval: {SCRAPE_SECONDS}s
  evaluation_interval: {SCRAPE_SECONDS}s
rule_files:
  - {json.dumps(str(ALERTS))}
scrape_configs:
  - job_name: {JOB}
    file_sd_configs:
      - files: [{json.dumps(str(targets))}]
"""


def _replace(path: Path, text: str) -> None:
    """Whole or not at all: Prometheus may read it at any moment."""
    written = path.with_suffix(".new")
    written.write_text(text)
    written.replace(path)
