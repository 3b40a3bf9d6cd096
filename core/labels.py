"""Labels of impressions: what a label row of `examples` says, and the words that the join and the learner share.

An impression is whatever event opens a label: a card shown for a click, a click for a purchase. With t its time, c the time from it to the
first positive event, w the policy's window and A its horizon, each policy tells the learner (`in_window` where c <= w):

    window             at t + w: in_window | negative
    vanilla            as window; if w < c <= A, late at t + c
    es-dfm, defuse     as vanilla; at t + A: matured_in_window | matured_late | matured_negative
    fnw, fnc           negative at t; if c <= A, late at t + c
    wait               at t + A: final_positive | final_negative
    defer                as vanilla; at t + A: final_positive | matured_late | final_negative
    sliver             at the next multiple of 30 s: in_window after a positive event, final_negative after the exit or the horizon

Sources: FNW and FNC arXiv 1907.06558, ES-DFM 2012.03245, DEFER 2104.14121, DEFUSE 2202.06472, Sliver 2402.14399.
"""

POLICIES = ("window", "vanilla", "fnw", "fnc", "es-dfm", "defer", "defuse", "wait", "sliver")
WINDOW, VANILLA, FNW, FNC, ES_DFM, DEFER, DEFUSE, WAIT, SLIVER = range(len(POLICIES))

KINDS = (
    "in_window", "negative", "late", "final_positive", "final_negative", "matured_in_window", "matured_late", "matured_negative",
)  # fmt: skip
IN_WINDOW, NEGATIVE, LATE, FINAL_POSITIVE, FINAL_NEGATIVE, MATURED_IN_WINDOW, MATURED_LATE, MATURED_NEGATIVE = range(len(KINDS))
POSITIVE_KINDS = (IN_WINDOW, LATE, FINAL_POSITIVE, MATURED_IN_WINDOW, MATURED_LATE)  # y is 1; of the others 0

# How the events that could make a label positive ended (matched, repeated, late, orphan), and impressions (opened, expired, capped).
JOIN_OUTCOMES = ("opened", "matched", "expired", "repeated", "late", "orphan", "capped")

SLIVER_MS = 30_000  # the global clock of Sliver, in event time from the epoch
