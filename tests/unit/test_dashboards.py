"""Dashboards are what the builder writes; every panel asks for metrics and labels that there are, and shows all of them."""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from monitoring.dashboards import DASHBOARDS, DIRECTORY, LEFT_OUT
from monitoring.dashboards.__main__ import texts
from monitoring.dashboards.builder import COLUMNS
from monitoring.metrics import BulkHistogram, Metrics
from monitoring.prometheus import ALERTS
from tests.programs import program

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "docker" / "grafana"
RUNBOOKS = ALERTS.parent / "runbooks"
TARGET_LABELS = {"job", "instance", "process"}  # of the scrape configuration
PROMETHEUS_OWN = {"up": TARGET_LABELS, "ALERTS": {"alertname", "alertstate", "severity"}}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",), "info": ("_info",)}
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h"}

STRING = re.compile(r'"[^"]*"')
SELECTOR = re.compile(r"\b([a-zA-Z_:][\w:]*)(?:\{([^}]*)\})?")
MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
AGGREGATED = re.compile(r"\b(sum|max|min|count)\b")
LEGEND = re.compile(r"\{\{(\w+)\}\}")
GROUPING = re.compile(r"\b(by|on|group_left|group_right)\s*\(([^)]*)\)")


class Panel(NamedTuple):
    dashboard: str
    json: dict[str, Any]

    @property
    def queries(self) -> list[tuple[str, str]]:
        """(PromQL, legend)."""
        return [(target["expr"], target["legendFormat"]) for target in self.json["targets"]]


def panels() -> list[Panel]:
    found = [Panel(name, panel) for name, build in DASHBOARDS.items() for panel in build()["panels"]]
    return [panel for panel in found if panel.json["type"] != "row"]


each_panel = pytest.mark.parametrize("panel", panels(), ids=lambda panel: f"{panel.dashboard}: {panel.json['title']}")


def exported() -> dict[str, set[str]]:
    """Series that our processes export, as Prometheus names them -> their labels."""
    registry = CollectorRegistry()
    process, metrics = ProcessCollector(registry=registry), Metrics(registry)
    found = series_of(process, ())
    for metric in vars(metrics).values():
        if isinstance(metric, MetricWrapperBase | BulkHistogram):
            found |= series_of(metric, getattr(metric, "_labelnames", ()))
    return found | {"freshet_build_info": {"version", "python"} | TARGET_LABELS}


def series_of(metric: Collector, labels: Sequence[str]) -> dict[str, set[str]]:
    families = metric.collect()  # a metric with labels and no series yet is told of too
    names = [family.name + suffix for family in families for suffix in SUFFIXES[family.type]]
    return {name: {*map(seen, labels), *TARGET_LABELS} | ({"le"} if name.endswith("_bucket") else set()) for name in names}


def seen(label: str) -> str:
    """Prometheus renames a label of ours that it gives to every series of a target."""
    return f"exported_{label}" if label in TARGET_LABELS else label


KNOWN = exported()
ASKABLE = {**KNOWN, **PROMETHEUS_OWN}


def selected(expr: str) -> list[tuple[str, set[str]]]:
    """Each metric of an expression, and the labels that are matched on it."""
    found = [(name, set(MATCHER.findall(STRING.sub('""', matchers)))) for name, matchers in SELECTOR.findall(expr)]
    return [(name, labels) for name, labels in found if name in ASKABLE or name.startswith(("freshet_", "process_"))]


def grouped(expr: str) -> set[str]:
    """Labels that an expression groups or joins by."""
    return {label.strip() for _, labels in GROUPING.findall(expr) for label in labels.split(",") if label.strip()}


def labels_of(expr: str) -> set[str]:
    """Labels that some metric of an expression has."""
    return set().union(*(ASKABLE[name] for name, _ in selected(expr)))


def left(expr: str) -> set[str]:
    """Labels that its result may have."""
    if AGGREGATED.search(expr) and "group_right" not in expr:
        return grouped(expr) | set(re.findall(r'label_replace\([^"]*"(\w+)"', expr))
    return labels_of(expr)


def faults(expr: str, legend: str = "") -> list[str]:
    """What an expression, or the legend of its series, asks for that there is not."""
    unknown = [f"no metric {name}" for name, _ in selected(expr) if name not in ASKABLE]
    if unknown or not selected(expr):
        return unknown or ["no metric at all"]
    found = [f"{name} has no {label}" for name, labels in selected(expr) for label in sorted(labels - ASKABLE[name])]
    found += [f"nothing has {label}" for label in sorted(grouped(expr) - labels_of(expr))]
    return found + [f"the legend's {label} is lost" for label in sorted(set(LEGEND.findall(legend)) - left(expr))]


def alert_rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def test_the_committed_files_are_what_the_builder_writes() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == set(texts())
    for name, text in texts().items():
        assert (DIRECTORY / name).read_text() == text, f"{name} is old: python -m monitoring.dashboards"


def test_uids_are_fixed() -> None:
    assert {name: build()["uid"] for name, build in DASHBOARDS.items()} == {name: f"freshet-{name}" for name in DASHBOARDS}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    found = DASHBOARDS[name]()["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    places = [panel["gridPos"] for panel in found]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < COLUMNS


@each_panel
def test_a_panel_says_what_good_looks_like(panel: Panel) -> None:
    assert "Good: " in panel.json["description"]
    assert {target["datasource"]["uid"] for target in panel.json["targets"]} == {"${datasource}"}
    assert all(legend for _, legend in panel.queries)
    assert len({target["refId"] for target in panel.json["targets"]}) == len(panel.queries)


@each_panel
def test_a_panel_links_to_a_runbook_that_there_is(panel: Panel) -> None:
    for link in panel.json["links"]:
        slug = link["url"].removeprefix("http://127.0.0.1:8090/runbooks/")
        assert (RUNBOOKS / f"{slug}.md").is_file()


@each_panel
def test_a_panel_asks_for_what_is_exported(panel: Panel) -> None:
    for expr, legend in panel.queries:
        assert faults(expr, legend) == []
        assert set(re.findall(r"\$\w+", expr)) <= set(VARIABLES), expr


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_an_alert_asks_for_what_is_exported(rule: dict[str, Any]) -> None:
    assert faults(rule["expr"]) == []
    told = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert told <= labels_of(rule["expr"])


@pytest.mark.parametrize(
    ("expr", "legend", "fault"),
    [
        ("rate(freshet_event_total[5m])", "", "no metric freshet_event_total"),
        ("freshet_events", "", "no metric freshet_events"),
        ("rate(freshet_lag_records_bucket[5m])", "", "no metric freshet_lag_records_bucket"),
        ("rate(freshet_freshness_seconds[5m])", "", "no metric freshet_freshness_seconds"),
        ('freshet_lag_seconds{writer="a=b"}', "", "freshet_lag_seconds has no writer"),
        ("sum by (stage, level) (freshet_lag_seconds)", "", "nothing has level"),
        ("sum by (child, process) (freshet_restarts_total{child='broker'})", "", ""),
        ("sum by (stage) (freshet_lag_seconds)", "{{topic}}", "the legend's topic is lost"),
        ("vector(1)", "", "no metric at all"),
    ],
)
def test_what_is_not_there_is_noticed(expr: str, legend: str, fault: str) -> None:
    assert faults(expr, legend) == ([fault] if fault else [])


def family(name: str) -> str:
    """A histogram is shown where one of its series is."""
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    return base if f"{base}_bucket" in KNOWN else name


def test_every_metric_is_shown_or_left_out_for_a_reason() -> None:
    shown = {family(name) for panel in panels() for expr, _ in panel.queries for name, _ in selected(expr)}
    assert {family(name) for name in KNOWN} - shown == set(LEFT_OUT)
    assert all(len(reason.split()) > 3 for reason in LEFT_OUT.values())


def test_every_expression_parses(tmp_path: Path) -> None:
    """As rules: `promtool` reads no lone expressions in the versions that distributions have."""
    rules = [{"record": f"panel:{at}", "expr": filled(expr)} for at, expr in enumerate(expr for p in panels() for expr, _ in p.queries)]
    assert len(rules) > 40
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = subprocess.run([program("promtool"), "check", "rules", path], check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def filled(expr: str) -> str:
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    return expr


def test_grafana_finds_data_source_and_dashboards() -> None:
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["url"], source["uid"]) == ("prometheus", "http://prometheus:9090", "prometheus")
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/freshet.yml").read_text())["providers"]
    compose = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in compose["services"]["grafana"]["volumes"]
