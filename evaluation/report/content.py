"""What the report says, section by section: prose, plots and tables, for either form."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from evaluation.report import tables
from evaluation.report.plots import Figure, calibration, changes, field, over_time, parts
from evaluation.report.tables import Table, fact_table, number, part_table, score_table, words

LIST_METRICS = ("hr@20", "mrr@20", "ndcg@20", "hr@10", "hr@5", "hr@1")
RANK_METRICS = ("mrr", "hit@20", "hit@50", "ndcg@10", "mean_percentile")
SAME = {"ci95": [0.0, 0.0]}
LABEL_METRICS = ("auc", "gauc", "log_loss", "calibration")


class Section(NamedTuple):
    title: str
    prose: list[str]
    figures: list[Figure]
    tables: list[Table]


def sections(told: Mapping[str, Any]) -> list[Section]:
    """Of the result of an evaluation, or of a comparison of two."""
    if "a" in told:
        return list(_compared(told))
    return [*_lists(told), *_ranks(told), *_labels(told), *_truth(told), _run(told)]


def heading(told: Mapping[str, Any]) -> tuple[str, str]:
    """Title of the page, and the line below it."""
    if "a" in told:
        of = [f"{name}: {_run_name(told[name])}" for name in ("a", "b")]
        return "Freshet: two evaluations compared", "; ".join(of)
    return "Freshet evaluation", _run_name(told)


def _run_name(told: Mapping[str, Any]) -> str:
    log, run = told.get("log", {}), told.get("run", {})
    named = [str(log[key]) for key in ("name", "mapping") if key in log][:1]
    counts = [f"{log['events']:,} events"] if isinstance(log.get("events"), int) else []
    version = [f"version {run['version']}"] if "version" in run else []
    return ", ".join([*named, *counts, *version, *([str(run["date"])] if "date" in run else [])]) or "unnamed run"


def headline(told: Mapping[str, Any]) -> str:
    """How the served lists stand, against the best baseline or the other run, in a sentence; empty where there is nothing to compare."""
    return _headline_of_two(told) if "a" in told else _headline_of_one(told)


def _headline_of_one(told: Mapping[str, Any]) -> str:
    lists, paired = told.get("lists", {}), told.get("paired", {}).get("lists", {})
    order = [name for name in tables.by_quality(lists, "hr@20") if name in paired and paired[name]["hr@20"]["difference"] is not None]
    if not order:
        return ""
    best, of = order[0], paired[order[0]]["hr@20"]
    return (
        f"Over {lists['served']['all']['n']:,} judged events, the served list had the item in {_percent(lists['served']['all']['hr@20'])} "
        f"of cases. That is {_stands(of, 'ahead of', 'behind')} the best baseline, {best}, with {_percent(lists[best]['all']['hr@20'])}: "
        f"{_points(of)}."
    )


def _headline_of_two(told: Mapping[str, Any]) -> str:
    of = told["lists"].get("served", {}).get("all", {})
    if not of or of["hr@20"]["difference"] is None:
        return ""
    change = of["hr@20"]
    return (
        f"Over {of['n']:,} judged events, the served list had the item in {_percent(change['a'])} of cases in run a and in "
        f"{_percent(change['b'])} in run b, which is {_stands(change, 'ahead of', 'behind')} a: {_points(change)}."
    )


def _stands(change: Mapping[str, Any], ahead: str, behind: str) -> str:
    low, high = change["ci95"] or (0.0, 0.0)
    if low == high == 0:
        return "the same as"
    return ahead if low > 0 else behind if high < 0 else "not clearly different from"


def _points(change: Mapping[str, Any]) -> str:
    low, high = change["ci95"] or (0.0, 0.0)
    return f"a difference of {100 * change['difference']:+.2f} points, 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _lists(told: Mapping[str, Any]) -> Iterator[Section]:
    scores = told.get("lists", {})
    if not scores:
        return
    hours, paired = told.get("by_hour", {}).get("lists", {}), told.get("paired", {}).get("lists", {})
    figures = [
        field("Hit rate of the lists, HR@20", scores, "hr@20"),
        field("Reciprocal rank in the lists, MRR@20", scores, "mrr@20"),
        changes("Served less each baseline, HR@20", paired, "hr@20"),
        parts("HR@20 by kind of event", scores, "hr@20"),
        *(over_time(f"{metric.upper()} over event time", hours, scores, metric, "hr@20") for metric in ("hr@20", "mrr@20")),
    ]
    found = [score_table("Lists", scores, LIST_METRICS, ("n",))]
    if paired:
        found.append(tables.paired_table("Served less each baseline, on the same events", paired, LIST_METRICS[:3]))
    found += [part_table(f"{metric.upper()} by kind of event", scores, metric) for metric in ("hr@20", "mrr@20")]
    prose = ["Is the item that the user turned to in the list of 20 that would have been served just before? Higher is better."]
    yield Section("Served lists", prose, [figure for figure in figures if figure], found)


def _ranks(told: Mapping[str, Any]) -> Iterator[Section]:
    scores = told.get("ranks", {})
    if not scores:
        return
    hours = told.get("by_hour", {}).get("ranks", {})
    figures = [field("Full ranks, MRR", scores, "mrr"), over_time("MRR of full ranks over event time", hours, scores, "mrr", "mrr")]
    found = [score_table("Full ranks", scores, RANK_METRICS, ("n",)), part_table("MRR of full ranks by kind of event", scores, "mrr")]
    prose = [
        "Where does the item stand among all live items, by learned score? Ties share their mean rank. Of a sample of the judged events. "
        "Mean percentile is the share of the items that stand before it: lower is better.",
        *_coverage(scores),
    ]
    yield Section("Full ranks", prose, [figure for figure in figures if figure], found)


def _labels(told: Mapping[str, Any]) -> Iterator[Section]:
    for label, of in told.get("labels", {}).items():
        scores = {name: inner for name, inner in of.items() if name != "delay_seconds"}
        if scores:
            hours = told.get("by_hour", {}).get("labels", {}).get(label, {})
            yield _label(words(label), scores, of.get("delay_seconds"), hours)


def _label(label: str, scores: Mapping[str, Any], delays: Mapping[str, float] | None, hours: Mapping[str, Any]) -> Section:
    figures = [
        *(field(f"{tables.title(metric)} of {label}", scores, metric) for metric in ("auc", "log_loss")),
        *(over_time(f"{tables.title(m)} of {label} over event time", hours, scores, m, "log_loss") for m in ("auc", "log_loss")),
        calibration(f"Calibration of {label}", scores),
        parts(f"AUC of {label} by kind of event", scores, "auc"),
    ]
    first = next(iter(scores.values()))["all"]
    prose = [
        f"Will an impression be followed by {label}? {number(first['positives'])} of {number(first['n'])} were. Higher AUC and GAUC, and "
        "lower log-loss are better; calibration is the sum of the probabilities over that of the labels, best at 1.",
        *([_delays(delays)] if delays else []),
        *_coverage(scores),
    ]
    found = [score_table(f"Label {label}", scores, LABEL_METRICS, ("n", "positives", "gauc_users"))]
    found += [part_table(f"{tables.title(metric)} of {label} by kind of event", scores, metric) for metric in ("auc", "log_loss")]
    return Section(f"Label: {label}", prose, [figure for figure in figures if figure], found)


def _delays(delays: Mapping[str, float]) -> str:
    if not delays["p99"]:
        return "The positives were revealed at once, with the impression."
    told = [f"{q} % within {delays[f'p{q}']:,.1f} s" for q in (50, 90, 99)]
    return f"The positives were revealed: {', '.join(told)} of the impression."


def _coverage(scores: Mapping[str, Any]) -> list[str]:
    """Who gave no number for some rows, so that those rows count for nobody."""
    partial = {name: of["all"]["coverage"] for name, of in scores.items() if of["all"].get("coverage", 1.0) < 1.0}
    if not partial:
        return []
    told = ", ".join(f"{name} {_percent(share)}" for name, share in partial.items())
    return [f"All are compared on the rows for which every one of them gave a number. Share of all rows: {told}; the others, all."]


def _truth(told: Mapping[str, Any]) -> Iterator[Section]:
    truth: Mapping[str, Any] = told.get("truth", {})
    if truth:
        prose = [
            "The log is simulated, so that what its users want is known. Gain is the mean utility of a list's items, regret how far it is "
            "below that of the best list. After an abrupt change of taste a list falls; half of the fall is regained with the first list "
            "that has half of it back. Every list counts, those of the burn-in too.",
        ]
        ideal = {"best possible": {"gain": next(iter(truth.values()))["best"]}}
        scores = {name: {"all": of} for name, of in {**truth, **ideal}.items()}
        hours = next(iter(truth.values()))["by_hour"]
        curves = {name: {"gain": of["by_hour"]["gain"]} for name, of in truth.items()} | {"best possible": {"gain": hours["best"]}}
        figure = over_time("Gain of the lists", {"ts_ms": hours["ts_ms"], "n": hours["n"], **curves}, scores, "gain", "gain")
        yield Section("Against the truth", prose, [figure] if figure else [], [tables.truth_table("By the truth", truth)])


def _run(told: Mapping[str, Any]) -> Section:
    prose = [
        "Every event is judged by what was learned from the events before it, then learned. A list leaves out the user's last 30 items, so "
        "a repeat of one is a miss; an item that nobody has seen is a miss; ties count against.",
        "Intervals are 95 %, from 200 Poisson bootstrap replicates over users; differences are paired, drawn alike on the same events.",
    ]
    found = [fact_table(words(name).capitalize(), tables.flat(told[name])) for name in ("log", "run", "label_outcomes") if told.get(name)]
    return Section("How this was measured", prose, [], found)


def _compared(told: Mapping[str, Any]) -> Iterator[Section]:
    labels = [(f"Label: {words(label)}", of, LABEL_METRICS) for label, of in told.get("labels", {}).items()]
    for title, scores, metrics in (("Served lists", told["lists"], LIST_METRICS), ("Full ranks", told["ranks"], RANK_METRICS), *labels):
        if scores:
            yield _comparison(title, scores, metrics)
    prose = ["Difference is b less a, on the same events, with the same bootstrap draws of users: 95 % intervals, two-sided p."]
    facts = [fact_table(f"Run {name}", tables.flat(told[name])) for name in ("a", "b") if told[name]]
    yield Section("How this was measured", prose, [], facts)


def _comparison(title: str, scores: Mapping[str, Any], metrics: tuple[str, ...]) -> Section:
    """Of the contenders that changed at all; baselines seldom do."""
    moved = {name: of for name, of in scores.items() if any(of["all"].get(metric, SAME)["ci95"] != [0.0, 0.0] for metric in metrics)}
    same = [name for name in scores if name not in moved]
    prose = [f"The same in both runs: {', '.join(same)}."] if same else []
    changed = {name: of["all"] for name, of in moved.items()}
    figures = [changes(f"{title}: {tables.title(metric)}, b less a", changed, metric) for metric in metrics[:2]]
    if "served" in moved:
        kinds = {words(part): of for part, of in moved["served"].items()}
        figures.append(changes("Served: HR@20 by kind of event, b less a", kinds, "hr@20"))
    found = [tables.change_table(f"{title}: {name}", of, metrics) for name, of in changed.items()]
    return Section(title, prose, [figure for figure in figures if figure], found)
