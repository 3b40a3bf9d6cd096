"""What happens when a user asks: a page is shown, some of it is clicked, watched, bought later. Compiled; no request depends on another.

The rows of a request come in a fixed order, whatever their times.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from core.compiled import compiled
from core.randomness import unit
from evaluation.world.laws import (
    ARRIVAL,
    DIMENSIONS,
    HOUR_MS,
    MINUTE_MS,
    PAGE,
    REQUEST,
    RESPONSE,
    Shelf,
    buyer_logit,
    click_logit,
    conversion_logit,
    draw,
    exponential,
    put,
    requests_per_ms,
    sigmoid,
    taste,
    zipf,
)  # fmt: skip

TYPES = ("impression", "click", "view", "enter", "exit", "purchase")
IMPRESSION, CLICK, VIEW, ENTER, EXIT, PURCHASE = range(len(TYPES))
ROWS_A_PLACE = 5  # at most: impression, click, enter, exit, purchase
ROW = np.dtype(
    [
        ("ts_ms", np.int64),
        ("request", np.int64),
        ("user", np.int64),
        ("item", np.int64),
        ("value", np.float64),  # seconds, NaN where there are none
        ("click", np.float64),  # of impressions: probability of a click
        ("conversion", np.float64),  # of impressions: probability of a conversion, once clicked
        ("scale_ms", np.float64),  # of impressions: mean of the conversion's delay, before it is cut off
        ("type", np.uint8),  # place in TYPES
        ("place", np.uint8),  # on the page, from 1
    ],
    align=True,
)


class Ask(NamedTuple):
    """One request."""

    number: int
    ts_ms: int
    user: int
    bot: bool
    turn: int  # by how many places the page is turned, once it is chosen: what is chosen first stands at any place equally often


@compiled
def arrive(law: Any, first: int, since: np.ndarray, out: np.ndarray) -> None:
    """Times of the requests `first`, `first` + 1, ...: a Poisson process whose rate changes with the minute.

    Args:
        since: float64 [1], ms of the world up to the request before `first`. Updated.
        out: int64 [n], epoch ms. Filled.
    """
    block = np.empty(4, dtype=np.uint64)
    passed_ms = since[0]
    for i in range(out.shape[0]):
        draw(law, ARRIVAL, first + i, 0, block)
        load = exponential(block[0], 1.0)  # requests to be expected until this one
        while True:
            minute = math.floor(passed_ms / MINUTE_MS)
            end_ms, rate = (minute + 1.0) * MINUTE_MS, requests_per_ms(law, minute, block)
            if load < (end_ms - passed_ms) * rate:
                passed_ms += load / rate
                break
            load -= (end_ms - passed_ms) * rate
            passed_ms = end_ms
        out[i] = law.start_ms + int(passed_ms)
    since[0] = passed_ms


@compiled
def asked_by(law: Any, number: int, ts_ms: int, block: np.ndarray) -> Ask:
    """Who asks: a user, the lower the number the more often, or a bot, whose numbers are behind those of the users."""
    draw(law, REQUEST, number, 0, block)
    turn = int(block[2] % np.uint64(law.page))
    if unit(block[0]) < law.bot_share:
        return Ask(number, ts_ms, law.users + int(unit(block[1]) * law.bots), True, turn)
    return Ask(number, ts_ms, zipf(unit(block[1]), law.users, law.user_exponent), False, turn)


@compiled
def choose(law: Any, shelf: Shelf, ask: Ask, liking: np.ndarray, shown: np.ndarray, chosen: int, block: np.ndarray) -> int:
    """A slot beside the `chosen` ones in `shown`: of `tries` that are drawn, the user's best. Bots get the first."""
    best, best_logit = -1, -np.inf
    for number in range(1 if ask.bot else law.tries):
        draw(law, PAGE, ask.number, chosen * law.tries + number, block)
        slot = zipf(unit(block[1]), law.items, 0.0 if unit(block[0]) < law.explore else law.item_exponent)
        while (shown[:chosen] == slot).any():
            slot = (slot + 1) % law.items
        if not shelf.start_ms[slot] <= ask.ts_ms < shelf.end_ms[slot]:
            put(law, shelf, slot, ask.ts_ms, block)
        logit = click_logit(law, shelf, liking, slot)
        if logit > best_logit:
            best, best_logit = slot, logit
    return best


@compiled
def write(out: np.ndarray, at: int, ask: Ask, item: int, place: int, ts_ms: float, kind: int, value: float) -> int:
    """A row, without probabilities; the next free one."""
    row = out[at]
    row.ts_ms, row.request, row.user, row.item, row.value = int(ts_ms), ask.number, ask.user, item, value
    row.click, row.conversion, row.scale_ms, row.type, row.place = 0.0, 0.0, 0.0, kind, place + 1
    return at + 1


@compiled
def respond(law: Any, shelf: Shelf, ask: Ask, slot: int, place: int, clicked_ms: float, out: np.ndarray, at: int, block: np.ndarray) -> int:
    """The click and what follows: a view (or enter and exit), which ends with the item, a conversion; the next free row.

    `block`: the last two numbers decide about the length and the conversion.
    """
    item, end_ms, conversion = shelf.item[slot], shelf.end_ms[slot], out[at - 1].conversion
    at = write(out, at, ask, item, place, clicked_ms, CLICK, np.nan)
    if ask.bot:
        return at
    length_ms = exponential(block[2], 1_000.0 * (law.room_seconds if shelf.room[slot] else law.watch_seconds))
    left_ms = min(clicked_ms + length_ms, float(end_ms))
    if shelf.room[slot]:
        at = write(out, at, ask, item, place, clicked_ms, ENTER, np.nan)
    seconds = (int(left_ms) - int(clicked_ms)) / 1_000.0
    at = write(out, at, ask, item, place, left_ms, EXIT if shelf.room[slot] else VIEW, seconds)
    if unit(block[3]) < conversion:
        draw(law, RESPONSE, ask.number, 2 * place + 1, block)
        delay_ms = cut_exponential(block[0], float(shelf.conversion[slot, 2]), law.attribution_hours * HOUR_MS)
        at = write(out, at, ask, item, place, clicked_ms + delay_ms, PURCHASE, np.nan)
    return at


@compiled
def cut_exponential(bits: np.uint64, scale: float, bound: float) -> float:
    """Exponential, given that it is below `bound`."""
    return -scale * math.log(1.0 - unit(bits) * (1.0 - math.exp(-bound / scale)))


@compiled
def show(
    law: Any, shelf: Shelf, ask: Ask, slot: int, place: int, clicks: float, converts: float, out: np.ndarray, at: int, block: np.ndarray
) -> int:
    """The impression of a slot and all that it leads to; the next free row.

    Args:
        clicks: probability of a click, if the item lives on.
        converts: of a conversion, once clicked.
    """
    mean_ms, left_ms = 1_000.0 * law.click_seconds, shelf.end_ms[slot] - ask.ts_ms
    at = write(out, at, ask, shelf.item[slot], place, float(ask.ts_ms), IMPRESSION, np.nan)
    row = out[at - 1]
    row.click, row.conversion, row.scale_ms = clicks * (1.0 - math.exp(-left_ms / mean_ms)), converts, shelf.conversion[slot, 2]
    draw(law, RESPONSE, ask.number, 2 * place, block)
    after_ms = exponential(block[1], mean_ms)
    if unit(block[0]) < clicks and after_ms < left_ms:
        return respond(law, shelf, ask, slot, place, ask.ts_ms + after_ms, out, at, block)
    return at


@compiled
def answer(law: Any, shelf: Shelf, first: int, ts_ms: np.ndarray, out: np.ndarray) -> int:
    """All rows of the requests `first`, `first` + 1, ... whose times are `ts_ms`, int64 [n], into `out`; how many."""
    block, liking, shown = np.empty(4, dtype=np.uint64), np.zeros(DIMENSIONS), np.empty(law.page, dtype=np.int64)
    at = 0
    for i in range(ts_ms.shape[0]):
        ask = asked_by(law, first + i, ts_ms[i], block)
        buyer = 0.0
        if not ask.bot:
            taste(law, shelf, ask.user, ask.ts_ms, block, liking)
            buyer = buyer_logit(law, ask.user, block)
        for number in range(law.page):
            shown[number] = choose(law, shelf, ask, liking, shown, number, block)
        for place in range(law.page):
            slot = shown[(place + ask.turn) % law.page]
            clicks, converts = law.bot_click, 0.0
            if not ask.bot:
                clicks = (place + 1.0) ** -law.position_exponent * sigmoid(click_logit(law, shelf, liking, slot))
                converts = sigmoid(conversion_logit(law, shelf, buyer, slot, ask.ts_ms))
            at = show(law, shelf, ask, slot, place, clicks, converts, out, at, block)
    return at
