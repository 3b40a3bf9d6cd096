"""Grafana dashboards as plain JSON: one function per kind of panel, and a layout in rows of equally wide panels."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Json = dict[str, Any]

RUNBOOKS = "http://127.0.0.1:8090/runbooks"
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SCHEMA_VERSION = 41
COLUMNS = 24  # of Grafana's grid
GREEN, AMBER, RED = "green", "orange", "red"
QUANTILES = {"p50": 0.5, "p99": 0.99}


class Query(NamedTuple):
    """PromQL, and the name of each series that it returns: a template of its labels."""

    expr: str
    legend: str


class Row(NamedTuple):
    """Panels side by side. With a title, a bar above them folds them away."""

    title: str
    panels: Sequence[Json]
    height: int = 8


def timeseries(
    title: str, about: str, unit: str, *queries: Query, runbook: str = "", stacked: bool = False, line_at: float | None = None
) -> Json:
    """Curves over time. `line_at`: a red line where an alert, or the objective, draws it."""
    custom = {
        "drawStyle": "line",
        "fillOpacity": 25 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "off" if line_at is None else "line"},
    }
    defaults = {"custom": custom, "thresholds": _thresholds({} if line_at is None else {line_at: RED}), "unit": unit}
    legend = {"calcs": ["lastNotNull", "max"], "displayMode": "table", "placement": "bottom", "showLegend": True}
    return _panel("timeseries", title, about, queries, runbook, defaults, {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}})


def quantiles(title: str, about: str, histogram: str, *by: str, unit: str = "s", runbook: str = "", line_at: float | None = None) -> Json:
    """p50 and p99 of a histogram, which may have a selector, for each value of the labels `by`."""
    name, brace, selector = histogram.partition("{")
    buckets = f"sum by ({', '.join(('le', *by))}) (rate({name}_bucket{brace}{selector}[$__rate_interval]))"
    labels = "".join(f"{{{{{label}}}}} " for label in by)
    queries = [Query(f"histogram_quantile({share}, {buckets})", f"{labels}{shown}") for shown, share in QUANTILES.items()]
    return timeseries(title, about, unit, *queries, runbook=runbook, line_at=line_at)


def heatmap(title: str, about: str, histogram: str, unit: str = "s", runbook: str = "") -> Json:
    """How the observations of a histogram spread, over time."""
    query = Query(f"sum by (le) (increase({histogram}_bucket[$__rate_interval]))", "{{le}}")
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {"exponent": 0.5, "mode": "scheme", "scheme": "Oranges", "steps": 64},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "tooltip": {"mode": "single", "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "unit": unit},
    }
    panel = _panel("heatmap", title, about, [query], runbook, {}, options)
    panel["targets"][0]["format"] = "heatmap"
    return panel


def stat(title: str, about: str, unit: str, query: Query, colours: Mapping[float, str], runbook: str = "") -> Json:
    """One number. Each colour holds from its value on, green below the first."""
    return _panel("stat", title, about, [query], runbook, {"thresholds": _thresholds(colours), "unit": unit}, _stat_options("auto"))


def switches(title: str, about: str, query: Query, runbook: str = "") -> Json:
    """A tile for each series: up at 1, down at 0."""
    states = {"0": {"color": RED, "index": 0, "text": "down"}, "1": {"color": GREEN, "index": 1, "text": "up"}}
    return _panel(
        "stat", title, about, [query], runbook, {"mappings": [{"options": states, "type": "value"}]}, _stat_options("value_and_name")
    )


def names(title: str, about: str, query: Query) -> Json:
    """The names of the series alone."""
    return _panel("stat", title, about, [query], "", {"thresholds": _thresholds({})}, _stat_options("name"))


def dashboard(uid: str, title: str, about: str, *rows: Row) -> Json:
    """A whole dashboard. Links to those with the same tag stand on top."""
    return {
        "annotations": {"list": []},
        "description": about,
        "editable": True,
        "graphTooltip": 1,  # one crosshair through all panels
        "id": None,
        "links": [{"asDropdown": False, "keepTime": True, "tags": ["freshet"], "title": "Freshet", "type": "dashboards"}],
        "panels": _laid_out(rows),
        "refresh": "10s",
        "schemaVersion": SCHEMA_VERSION,
        "tags": ["freshet"],
        "templating": {"list": [_datasource_variable()]},
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "title": title,
        "uid": uid,
    }


def _datasource_variable() -> Json:
    return {"hide": 0, "label": "Data source", "name": "datasource", "query": "prometheus", "refresh": 1, "type": "datasource"}


def _thresholds(colours: Mapping[float, str]) -> Json:
    steps: list[Json] = [{"color": GREEN, "value": None}, *({"color": colour, "value": value} for value, colour in colours.items())]
    return {"mode": "absolute", "steps": steps}


def _stat_options(text: str) -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    return {"colorMode": "value", "graphMode": "area" if text == "auto" else "none", "reduceOptions": reduced, "textMode": text}


def _panel(kind: str, title: str, about: str, queries: Sequence[Query], runbook: str, defaults: Json, options: Json) -> Json:
    link = {"targetBlank": True, "title": f"Runbook: {runbook}", "url": f"{RUNBOOKS}/{runbook}"}
    return {
        "datasource": DATASOURCE,
        "description": about,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "links": [link] if runbook else [],
        "options": options,
        "targets": [_target(ref, query) for ref, query in zip("ABCDEFGH", queries, strict=False)],
        "title": title,
        "type": kind,
    }


def _target(ref: str, query: Query) -> Json:
    return {"datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend, "refId": ref}


def _laid_out(rows: Sequence[Row]) -> list[Json]:
    """Panels with their ids and places on the grid."""
    panels: list[Json] = []
    y = 0
    for row in rows:
        if row.title:
            panels.append({"collapsed": False, "gridPos": _place(0, y, COLUMNS, 1), "panels": [], "title": row.title, "type": "row"})
            y += 1
        width = COLUMNS // len(row.panels)
        panels += [{**panel, "gridPos": _place(at * width, y, width, row.height)} for at, panel in enumerate(row.panels)]
        y += row.height
    return [{**panel, "id": number} for number, panel in enumerate(panels, 1)]


def _place(x: int, y: int, width: int, height: int) -> Json:
    return {"h": height, "w": width, "x": x, "y": y}
