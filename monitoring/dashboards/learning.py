"""Does it learn, is what it learned better than popularity, and has it room."""

from monitoring.dashboards.builder import RED, Json, Query, Row, dashboard, quantiles, stat, timeseries

SERVED = 'sum(increase(freshet_prequential_hits_total{list="served"}[30m]))'
POPULAR = 'sum(increase(freshet_prequential_hits_total{list="popular"}[30m]))'
JUDGED = "sum(increase(freshet_prequential_judged_total[30m]))"
LEFT_OUT = "sum(increase(freshet_prequential_overtaken_total[30m]))"
BELOW = "prequential-below-popular"


def build() -> Json:
    about = "What the learner does with the events, what its lists are worth, and how full its tables are."
    return dashboard(
        "freshet-learning",
        "Freshet: learning",
        about,
        Row("Learning", [_updates(), _loss(), _nonfinite()]),
        Row("Quality of what is served", [_hit_rate(), _reciprocal_rank(), _margin(), _clicks()]),
        Row("Time", [_busy(), _apply(), _publish()]),
        Row("Tables", [_fill(), _rows(), _admissions(), _evictions()]),
    )


def _updates() -> Json:
    about = "Gradient updates: one for each click, like, purchase and so on; impressions and views are none. Good: follows the events."
    return timeseries("Updates", about, "ops", Query("sum by (learner) (rate(freshet_updates_total[$__rate_interval]))", "{{learner}}"))


def _loss() -> Json:
    about = "Moving average of the loss on each event before it is learned. Good: falls at first, then level; a jump means other traffic."
    return timeseries(
        "Loss", about, "none", Query("max by (learner) (freshet_training_loss_ewma)", "{{learner}}"), runbook="nonfinite-updates"
    )


def _nonfinite() -> Json:
    about = "Updates left out in 10 minutes, since a number in them was not finite. Good: 0, always."
    query = Query("sum by (learner) (increase(freshet_nonfinite_updates_total[10m]))", "{{learner}}")
    return stat("Updates left out", about, "none", query, {1: RED}, "nonfinite-updates")


def _hit_rate() -> Json:
    about = "Share of clicks on an item of the list of 20, over 30 minutes. Good: served above popular, on the same clicks."
    queries = Query(f"{SERVED} / {JUDGED}", "served"), Query(f"{POPULAR} / {JUDGED}", "popular")
    return timeseries("Hit-rate@20", about, "percentunit", *queries, runbook=BELOW)


def _reciprocal_rank() -> Json:
    about = "Mean of 1 / rank of the item clicked, 0 where it is not in the list of 20, over 30 minutes. Good: served above popular."
    ranks = "sum by (list) (increase(freshet_prequential_reciprocal_ranks_total[30m]))"
    return timeseries("MRR@20", about, "none", Query(f"{ranks} / on () group_left () {JUDGED}", "{{list}}"), runbook=BELOW)


def _margin() -> Json:
    about = "Hits served less hits of popularity over 30 minutes, in standard errors. Good: above 0. Below -2 it is more than chance."
    margin = f"({SERVED} - {POPULAR}) / sqrt({SERVED} + {POPULAR})"
    return timeseries("Served less popular", about, "none", Query(margin, "standard errors"), runbook=BELOW, line_at=-2)


def _clicks() -> Json:
    about = "Clicks judged in 30 minutes, and those left out as the cache knew of them already. Good: hundreds judged, few left out."
    return timeseries("Clicks judged", about, "none", Query(JUDGED, "judged"), Query(LEFT_OUT, "overtaken"), runbook=BELOW)


def _busy() -> Json:
    about = "Share of the time in which the learner applies or publishes. Good: below 0.7; near 1 it cannot keep up."
    apply = 'sum(rate(freshet_apply_seconds_sum{stage="learner"}[$__rate_interval]))'
    publish = 'sum(rate(freshet_publish_seconds_sum{stage="learner"}[$__rate_interval]))'
    return timeseries("Busy", about, "percentunit", Query(apply, "apply"), Query(publish, "publish"), stacked=True, runbook="lag-growing")


def _apply() -> Json:
    about = "A call of the learner stage: one record of `examples`, or several that waited. Good: tens of milliseconds."
    return quantiles("Apply", about, 'freshet_apply_seconds{stage="learner"}', runbook="lag-growing")


def _publish() -> Json:
    about = "Gathering and encoding what changed. Good: milliseconds; it grows with the rows that an event touches."
    return quantiles("Publish", about, 'freshet_publish_seconds{stage="learner"}')


def _fill() -> Json:
    about = "Rows in use over rows that there is room for. At 1 the longest unused make room. Good: below 1, or few evictions."
    fill = "max by (learner, kind) (freshet_held_rows / freshet_capacity_rows)"
    return timeseries("Fill", about, "percentunit", Query(fill, "{{learner}} {{kind}}"))


def _rows() -> Json:
    about = "Users and items that each part of the learner has a row for. Good: grows with your users and items, then level."
    return timeseries("Rows", about, "none", Query("max by (learner, kind) (freshet_held_rows)", "{{learner}} {{kind}}"))


def _admissions() -> Json:
    about = "Users and items that were given a row. Good: falls as the known ones come back."
    rate = "sum by (learner, kind) (rate(freshet_admissions_total[$__rate_interval]))"
    return timeseries("New rows", about, "rowsps", Query(rate, "{{learner}} {{kind}}"))


def _evictions() -> Json:
    about = "Users and items that lost their row to make room. Good: 0. Where it is near the admissions, raise `max_users` or `max_items`."
    rate = "sum by (learner, kind) (rate(freshet_evictions_total[$__rate_interval]))"
    return timeseries("Evictions", about, "rowsps", Query(rate, "{{learner}} {{kind}}"))
