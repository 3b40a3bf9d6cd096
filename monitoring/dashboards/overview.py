"""Is it up, is it fresh, is it any good: one look."""

from monitoring.dashboards.builder import AMBER, GREEN, RED, Json, Query, Row, dashboard, names, quantiles, stat, switches, timeseries

REFUSED = 'rate(freshet_messages_total{outcome="dead_letter"}[$__rate_interval])'
BELOW = "prequential-below-popular"
FIRING = 'ALERTS{alertname=~"Freshet.+", alertstate="firing"}'


def build() -> Json:
    about = "Whether Freshet is up, fresh, and better than popularity. Every number has its details on one of the other dashboards."
    return dashboard("freshet-overview", "Freshet: overview", about, Row("", _numbers(), 4), Row("", _state(), 5), *_curves())


def _numbers() -> list[Json]:
    return [_events_now(), _p99_now(), _fresh_now(), _lag_now(), _dead_now(), _served_now()]


def _state() -> list[Json]:
    return [_processes(), _firing_now(), _restarts_shown(), _version()]


def _events_now() -> Json:
    about = "Accepted events that the feature stage applied. Good: what your producers send."
    query = Query('sum(rate(freshet_events_total{outcome="accepted"}[$__rate_interval]))', "events")
    return stat("Events", about, "eps", query, {})


def _p99_now() -> Json:
    about = "Of 100 events, 99 are visible in the cache within this time. Good: below 1 s. Nothing is shown while nothing comes in."
    p99 = "histogram_quantile(0.99, sum by (le) (rate(freshet_freshness_seconds_bucket[$__rate_interval])))"
    return stat("Freshness p99", about, "s", Query(p99, "p99"), {1: RED}, "freshness-burn")


def _fresh_now() -> Json:
    about = "Share of the events. Good: 99 % or more, which is the objective."
    within = 'sum(rate(freshet_freshness_seconds_bucket{le="1.0"}[$__rate_interval]))'
    share = f"{within} / sum(rate(freshet_freshness_seconds_count[$__rate_interval]))"
    return stat("Visible within 1 s", about, "percentunit", Query(share, "share"), {0: RED, 0.99: GREEN}, "freshness-burn")


def _lag_now() -> Json:
    about = "Age of the last record applied while newer ones wait, of the reader furthest behind. Good: below a second, mostly 0."
    return stat("Lag", about, "s", Query("max(freshet_lag_seconds)", "lag"), {1: AMBER, 30: RED}, "lag-growing")


def _dead_now() -> Json:
    about = "Share of the messages that were refused. Good: 0."
    share = f"sum({REFUSED}) / sum(rate(freshet_messages_total[$__rate_interval]))"
    return stat("Dead letters", about, "percentunit", Query(share, "share"), {0.01: AMBER, 0.05: RED}, "dead-letter-ratio")


def _served_now() -> Json:
    about = "Hits of the served lists over those of `popular now` on the same clicks, 30 minutes. Good: above 1."
    served, popular = (f'sum(increase(freshet_prequential_hits_total{{list="{name}"}}[30m]))' for name in ("served", "popular"))
    return stat("Served against popular", about, "none", Query(f"{served} / {popular}", "ratio"), {0: RED, 1: GREEN}, BELOW)


def _processes() -> Json:
    query = Query('min by (process) (up{job="freshet"})', "{{process}}")
    return switches("Processes", "What Prometheus reaches. Good: all up.", query, "process-down")


def _firing_now() -> Json:
    return stat("Alerts firing", "Good: 0. The curve below names them.", "none", Query(f"count({FIRING}) or vector(0)", "alerts"), {1: RED})


def _restarts_shown() -> Json:
    about = "How often processes were started again, in the time shown. Good: 0, but for upgrades."
    query = Query('sum(changes(process_start_time_seconds{job="freshet"}[$__range]))', "restarts")
    return stat("Restarts", about, "none", query, {1: AMBER}, "process-down")


def _version() -> Json:
    query = Query("count by (version, python) (freshet_build_info)", "Freshet {{version}}, Python {{python}}")
    return names("Build", "What runs. Good: one version, but for the minutes of an upgrade.", query)


def _curves() -> list[Row]:
    return [
        Row("Flow", [_events(), _freshness(), _lag()]),
        Row("Quality", [_hit_rate(), _dead_letters(), _alerts()]),
        Row("Processes", [_restarts(), _cpu(), _memory()]),
    ]


def _events() -> Json:
    about = "By the judgement of the feature stage. Good: nearly all accepted; late and future ones are accepted as well."
    query = Query("sum by (outcome) (rate(freshet_events_total[$__rate_interval]))", "{{outcome}}")
    return timeseries("Events by outcome", about, "eps", query)


def _freshness() -> Json:
    about = "Kafka timestamp of an event until the cache shows what was learned of it. Good: p99 below the line, the objective."
    return quantiles("Freshness", about, "freshet_freshness_seconds", runbook="freshness-burn", line_at=1)


def _lag() -> Json:
    about = "Age of the last record applied while newer ones wait, of the partition furthest behind. Good: near 0, falling after a start."
    query = Query("max by (stage) (freshet_lag_seconds)", "{{stage}}")
    return timeseries("Lag by stage", about, "s", query, runbook="lag-growing", line_at=30)


def _hit_rate() -> Json:
    about = "Share of clicks on an item of the list of 20, as served and as popularity alone would have listed. Good: served is above."
    hits, judged = "sum by (list) (increase(freshet_prequential_hits_total[30m]))", "sum(increase(freshet_prequential_judged_total[30m]))"
    query = Query(f"{hits} / on () group_left () {judged}", "{{list}}")
    return timeseries("Hit-rate@20, 30 minutes", about, "percentunit", query, runbook=BELOW)


def _dead_letters() -> Json:
    about = "Messages refused, by topic. Good: none; what they lack is on the dashboard Kafka and state."
    return timeseries("Dead letters by topic", about, "mps", Query(f"sum by (topic) ({REFUSED})", "{{topic}}"), runbook="dead-letter-ratio")


def _alerts() -> Json:
    none = 'label_replace(vector(0), "alertname", "none", "", "")'
    query = Query(f"sum by (alertname) ({FIRING}) or {none}", "{{alertname}}")
    return timeseries("Alerts by name", "How many of each fire. Good: only the line `none`, at 0.", "none", query, stacked=True)


def _restarts() -> Json:
    about = "Processes that `freshet up` started again after they died, the broker among them, in 10 minutes. Good: 0."
    query = Query("sum by (child) (increase(freshet_restarts_total[10m]))", "{{child}}")
    return timeseries("Restarts by freshet up", about, "none", query, runbook="process-down")


def _cpu() -> Json:
    about = "Cores in use. Good: well below the machine's cores in sum; the learner is the first to reach a whole one."
    query = Query('sum by (process) (rate(process_cpu_seconds_total{job="freshet"}[$__rate_interval]))', "{{process}}")
    return timeseries("CPU", about, "none", query, stacked=True)


def _memory() -> Json:
    about = "Resident memory. Good: level once the tables are full. The learner grows with users and items up to their capacity."
    query = Query('sum by (process) (process_resident_memory_bytes{job="freshet"})', "{{process}}")
    return timeseries("Memory", about, "bytes", query, stacked=True)
