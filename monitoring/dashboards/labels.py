"""Do labels find their impressions, how late do they come, and what do their models say."""

from monitoring.dashboards.builder import RED, Json, Query, Row, dashboard, quantiles, stat, timeseries


def build() -> Json:
    about = "The join of impressions with what came of them, and the models that learn from it."
    return dashboard(
        "freshet-labels",
        "Freshet: labels",
        about,
        Row("Join", [_events(), _impressions(), _open(), _capped()]),
        Row("Label rows", [_rows(), _delay(), _missing()]),
        Row("Models", [_loss(), _rates(), _clipped()]),
    )


def _outcomes(outcomes: str) -> Query:
    rate = f'sum by (label, outcome) (rate(freshet_join_outcomes_total{{outcome=~"{outcomes}"}}[$__rate_interval]))'
    return Query(rate, "{{label}} {{outcome}}")


def _events() -> Json:
    about = (
        "Events that could make a label positive, by what became of them. Good: most of them matched. Many orphans: impressions are not "
        "sent, or come after what they led to. Many late ones: raise the horizon."
    )
    return timeseries("Events", about, "ops", _outcomes("matched|repeated|late|orphan"), stacked=True)


def _impressions() -> Json:
    about = "Impressions opened, and those that ended without a positive event. Good: the second follows the first by the horizon."
    return timeseries("Impressions", about, "ops", _outcomes("opened|expired"))


def _open() -> Json:
    about = "Impressions whose label is undecided. Good: level; its ceiling is `max_open_impressions` per label and partition."
    return timeseries("Undecided", about, "none", Query("sum by (label) (freshet_open_impressions_rows)", "{{label}}"))


def _capped() -> Json:
    about = (
        "Impressions that gave up their place undecided, in 10 minutes: they lead to no label. Good: 0; else raise `max_open_impressions`."
    )
    query = Query('sum by (label) (increase(freshet_join_outcomes_total{outcome="capped"}[10m]))', "{{label}}")
    return stat("Given up", about, "none", query, {1: RED}, "impressions-given-up")


def _rows() -> Json:
    about = "Label rows by what they say. Good: positive and negative ones in a steady proportion."
    rate = "sum by (label, kind) (rate(freshet_labelled_rows_total[$__rate_interval]))"
    return timeseries("Rows", about, "rowsps", Query(rate, "{{label}} {{kind}}"), stacked=True)


def _delay() -> Json:
    about = "Event time from an impression to its label row. Good: with `sliver` the positive ones come within 30 s of the event."
    return quantiles("Delay", about, "freshet_labelled_delay_seconds", "label")


def _missing() -> Json:
    about = "Label rows in 10 minutes whose impression the learner no longer had. Good: 0; else raise `max_open_impressions`."
    return stat("Without an impression", about, "none", Query("sum(increase(freshet_missing_impressions_total[10m]))", "rows"), {1: RED})


def _loss() -> Json:
    about = "Log loss of what the model said before it learned, recent impressions first. Good: falls at first, then level."
    return timeseries("Log loss", about, "none", Query("max by (label) (freshet_prediction_loss_ewma)", "{{label}}"))


def _rates() -> Json:
    about = "Mean predicted probability beside the share of positive labels. Good: one follows the other."
    queries = (
        Query("max by (label) (freshet_predicted_ratio)", "{{label}} predicted"),
        Query("max by (label) (freshet_observed_ratio)", "{{label}} observed"),
    )
    return timeseries("Calibration", about, "percentunit", *queries)


def _clipped() -> Json:
    about = "Rows at which a model of policy `fnc` stood where it gives no probability. Good: rare."
    rate = "sum by (label) (rate(freshet_clipped_predictions_total[$__rate_interval]))"
    return timeseries("Clipped", about, "ops", Query(rate, "{{label}}"))
