"""How fast lists are answered, and how fresh the cache behind them is."""

from monitoring.dashboards.builder import Json, Query, Row, dashboard, heatmap, quantiles, timeseries

BURN = "freshness-burn"
SKEW = "cache-version-skew"
BUDGET = 0.01  # of the events may be visible later than after 1 s


def build() -> Json:
    about = "Requests and their latency, the freshness of the cache against its objective, and what the cache holds."
    return dashboard(
        "freshet-serving",
        "Freshet: serving",
        about,
        Row("Requests", [_requests(), _latency(), _latencies()]),
        Row("Freshness", [_freshness(), _fresh_share(), _burn()]),
        Row("Cache behind its writers", [_behind(), _age(), _lag_seconds(), _lag_records()]),
        Row("Cache", [_rows(), _bytes(), _refused()]),
    )


def _requests() -> Json:
    about = "Lists, by the link that answered first. Good: mostly `personal`; much `popular` means unknown users, `none` an empty cache."
    query = Query("sum by (source) (rate(freshet_serving_seconds_count[$__rate_interval]))", "{{source}}")
    return timeseries("Requests by source", about, "reqps", query, stacked=True)


def _latency() -> Json:
    about = "Time to fill a list within the server, without HTTP. Good: p99 of a few milliseconds."
    return quantiles("Time to answer", about, "freshet_serving_seconds", "source")


def _latencies() -> Json:
    about = "The same, as it spreads. Good: one dark band, well below 10 ms."
    return heatmap("Times to answer", about, "freshet_serving_seconds")


def _freshness() -> Json:
    about = "Kafka timestamp of an event until the cache shows what was learned of it. Good: below 1 s."
    return heatmap("Freshness", about, "freshet_freshness_seconds", runbook=BURN)


def _fresh_share() -> Json:
    about = "Share of the events visible within 1 s, in 5 minutes and in 6 hours. Good: above the line, the objective."
    return timeseries(
        "Visible within 1 s",
        about,
        "percentunit",
        *(Query(f"1 - ({_late(window)})", window) for window in ("5m", "6h")),
        runbook=BURN,
        line_at=1 - BUDGET,
    )


def _burn() -> Json:
    about = "How many times faster than allowed the error budget is used. Good: below 1. Alerts: 14.4 over an hour, 6 over six."
    return timeseries(
        "Budget burn", about, "none", *(Query(f"({_late(window)}) / {BUDGET}", window) for window in ("1h", "6h")), runbook=BURN
    )


def _late(window: str) -> str:
    """Share of the events that took longer."""
    fresh = f'sum(rate(freshet_freshness_seconds_bucket{{le="1.0"}}[{window}]))'
    return f"1 - {fresh} / sum(rate(freshet_freshness_seconds_count[{window}]))"


def _behind() -> Json:
    about = "Input rows that a writer has published and a server does not show yet. Good: near 0; scrapes of both are not at one moment."
    newest = "max by (writer) (freshet_published_version)"
    query = Query(f"{newest} - on (writer) group_right () freshet_cache_version", "{{instance}} {{writer}}")
    return timeseries("Rows behind the writer", about, "none", query, runbook=SKEW)


def _age() -> Json:
    about = "Since the newest publication of each writer was applied. Good: seconds; a writer with nothing new to say is silent."
    query = Query("max by (instance, writer) (time() - freshet_cache_timestamp_seconds)", "{{instance}} {{writer}}")
    return timeseries("Since the last publication", about, "s", query, runbook=SKEW)


def _lag_seconds() -> Json:
    about = "Age of the last record of `parameters` applied while newer ones wait. Good: 0; at its start a server reads the retained hours."
    query = Query('max by (instance) (freshet_lag_seconds{stage="server"})', "{{instance}}")
    return timeseries("Lag", about, "s", query, runbook="lag-growing", line_at=30)


def _lag_records() -> Json:
    about = "Records of `parameters` not applied. Good: near 0; at its start a server reads the retained hours."
    query = Query('max by (instance) (freshet_lag_records{stage="server"})', "{{instance}}")
    return timeseries("Lag in records", about, "none", query, runbook="lag-growing")


def _rows() -> Json:
    about = "Rows of each table of the cache. Good: equal in all servers once they are ready, and bounded by the learner's tables."
    return timeseries("Rows", about, "none", Query("max by (table) (freshet_cache_rows)", "{{table}}"))


def _bytes() -> Json:
    about = "Memory of each table of the cache, of the largest server. Good: level once the tables are full."
    return timeseries("Size", about, "bytes", Query("max by (table) (freshet_cache_bytes)", "{{table}}"), stacked=True)


def _refused() -> Json:
    about = "Published rows not taken. Good: no `nonfinite`; `stale` ones come after a stage was restarted, and do no harm."
    query = Query("sum by (reason) (rate(freshet_cache_refused_rows_total[$__rate_interval]))", "{{reason}}")
    return timeseries("Refused rows", about, "rowsps", query, runbook="nonfinite-updates")
