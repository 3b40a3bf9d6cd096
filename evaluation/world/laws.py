"""What is true in a world at a time: pure functions of settings, seed, number and event time. Nothing is remembered between two of them.

A world always has `items` slots, of which each holds one live item after another: item = generation * items + slot. The slot is also the
rank in popularity. So what is live can be said of any time at once, and drawn from, at a cost that does not grow with the catalogue.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from core.compiled import compiled
from core.randomness import philox, unit

DIMENSIONS = 8  # of tastes and items
MINUTE_MS, HOUR_MS, DAY_MINUTES = 60_000, 3_600_000, 1_440
FIRST_SHARE, SECOND_SHARE = 0.8, 0.6  # of the two topics that a taste is made of; their squares add up to 1

# Streams of random numbers.
TOPIC, SLOT, ITEM, USER, TASTE, MINUTE, ARRIVAL, REQUEST, PAGE, RESPONSE = (np.uint64(n) for n in range(1, 11))


class Shelf(NamedTuple):
    """What is live, a row a slot, brought up to date where it is looked at. And the topics."""

    centre: np.ndarray  # float64 [topics, DIMENSIONS], unit vectors
    item: np.ndarray  # int64 [items]
    start_ms: np.ndarray  # int64 [items], the item is live in [start_ms, end_ms)
    end_ms: np.ndarray  # int64 [items]
    room: np.ndarray  # bool [items]
    vector: np.ndarray  # float32 [items, DIMENSIONS]
    quality: np.ndarray  # float32 [items], logits
    conversion: np.ndarray  # float32 [items, 3]: logits, phase of their drift in 0..1, delay scale in ms


def empty_shelf(law: Any) -> Shelf:
    """As before any time."""
    items = int(law["items"])
    times = np.zeros((2, items), dtype=np.int64)
    wide = np.zeros((items, DIMENSIONS), dtype=np.float32)
    conversion = np.zeros((items, 3), dtype=np.float32)
    return Shelf(
        topic_centres(law), np.full(items, -1), times[0], times[1], np.zeros(items, dtype=np.bool_), wide,
        np.zeros(items, dtype=np.float32), conversion,
    )  # fmt: skip


@compiled
def sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit))


@compiled
def draw(law: Any, stream: np.uint64, position: int, number: int, out: np.ndarray) -> None:
    """Four uint64 into `out`."""
    philox(np.uint64(law.seed), stream, np.uint64(position), np.uint64(number), out)


@compiled
def normals(first: np.uint64, second: np.uint64) -> tuple[float, float]:
    """Two standard normal numbers of two draws (Box and Muller, 1958)."""
    length, angle = math.sqrt(-2.0 * math.log(1.0 - unit(first))), 2.0 * math.pi * unit(second)
    return length * math.cos(angle), length * math.sin(angle)


@compiled
def exponential(bits: np.uint64, mean: float) -> float:
    return -mean * math.log(1.0 - unit(bits))


@compiled
def zipf(share: float, n: int, exponent: float) -> int:
    """The rank in 0..n - 1 below which `share` of the draws lie: density (rank + 1)^-exponent, continuous, by its inverse."""
    if abs(exponent - 1.0) < 1e-9:
        place = (n + 1.0) ** share
    else:
        power = 1.0 - exponent
        place = (1.0 + share * ((n + 1.0) ** power - 1.0)) ** (1.0 / power)
    return min(int(place) - 1, n - 1)


@compiled
def topic_centres(law: Any) -> np.ndarray:
    """float64 [topics, DIMENSIONS]: directions, drawn evenly."""
    out, block = np.empty((law.topics, DIMENSIONS)), np.empty(4, dtype=np.uint64)
    for topic in range(law.topics):
        for d in range(0, DIMENSIONS, 4):
            draw(law, TOPIC, topic, d, block)
            out[topic, d], out[topic, d + 1] = normals(block[0], block[1])
            out[topic, d + 2], out[topic, d + 3] = normals(block[2], block[3])
        out[topic] /= math.sqrt((out[topic] ** 2).sum())
    return out


@compiled
def requests_per_ms(law: Any, minute: int, block: np.ndarray) -> float:
    """Rate of requests in a minute of the world."""
    draw(law, MINUTE, minute, 0, block)
    times = law.burst_times if unit(block[0]) < law.burst_share else 1.0
    return float(law.requests_per_second / 1_000.0 * times * (1.0 + law.daily_wave * math.sin(2.0 * math.pi * minute / DAY_MINUTES)))


@compiled
def slot_life(law: Any, slot: int, block: np.ndarray) -> tuple[bool, int, int]:
    """Whether its items are rooms, how long each is live, how old the first one is at the start; ms."""
    draw(law, SLOT, slot, 0, block)
    room = unit(block[0]) < law.room_share
    mean_ms = law.room_life_minutes * MINUTE_MS if room else law.item_life_hours * HOUR_MS
    life_ms = max(1, int(mean_ms * (0.5 + unit(block[1]))))
    return room, life_ms, int(life_ms * unit(block[2]))


@compiled
def topic_of(law: Any, item: int, block: np.ndarray) -> int:
    draw(law, ITEM, item, 0, block)
    return int(block[0] % np.uint64(law.topics))


@compiled
def put(law: Any, shelf: Shelf, slot: int, ts_ms: int, block: np.ndarray) -> None:
    """Have the slot hold the item of that time. Callers look first whether it does: a call costs 40 ns, as it takes a reference to each
    array of the shelf."""
    room, life_ms, age_ms = slot_life(law, slot, block)
    generation = (ts_ms - law.start_ms + age_ms) // life_ms
    item = generation * law.items + slot
    shelf.item[slot], shelf.room[slot] = item, room
    shelf.start_ms[slot] = law.start_ms + generation * life_ms - age_ms
    shelf.end_ms[slot] = shelf.start_ms[slot] + life_ms
    topic = topic_of(law, item, block)
    scale_hours = law.conversion_scales_hours[block[1] % np.uint64(3)]
    first, second = normals(block[2], block[3])
    shelf.quality[slot] = law.quality_sd * first
    shelf.conversion[slot, 0], shelf.conversion[slot, 2] = law.conversion_item_sd * second, scale_hours * HOUR_MS
    draw(law, ITEM, item, 1, block)
    shelf.conversion[slot, 1] = unit(block[0])
    for d in range(0, DIMENSIONS, 4):
        draw(law, ITEM, item, 2 + d, block)
        for k in range(4):
            shelf.vector[slot, d + k] = shelf.centre[topic, d + k] + law.topic_spread * (2.0 * unit(block[k]) - 1.0)


@compiled
def changed_ms(law: Any, user: int, ts_ms: int, block: np.ndarray) -> tuple[int, int]:
    """(which taste of the user it is, from 0; since when). Changes are apart by half of `change_hours` to one and a half."""
    if law.change_hours == 0.0:
        return 0, law.start_ms
    period_ms = law.change_hours * HOUR_MS
    draw(law, USER, user, 0, block)
    ahead = unit(block[0])
    count = math.floor((ts_ms - law.start_ms) / period_ms + ahead)
    for number in (count, count - 1):
        draw(law, USER, user, 3 + number, block)
        since_ms = law.start_ms + int((number - ahead + 0.5 * unit(block[0])) * period_ms)
        if since_ms <= ts_ms:
            break
    return number + 1, since_ms


@compiled
def taste(law: Any, shelf: Shelf, user: int, ts_ms: int, block: np.ndarray, out: np.ndarray) -> None:
    """float64 [DIMENSIONS] into `out`: two topics until the next change, and a path round them."""
    number, _ = changed_ms(law, user, ts_ms, block)
    draw(law, TASTE, user, number, block)
    first = int(block[0] % np.uint64(law.topics))
    second = (first + 1 + int(block[1] % np.uint64(law.topics - 1))) % law.topics
    turns = (ts_ms - law.start_ms) / (law.drift_hours * HOUR_MS)
    for d in range(DIMENSIONS):
        if d % 4 == 0:
            draw(law, TASTE, user, -1 - d, block)
        wave = math.sin(2.0 * math.pi * (turns / (1.0 + d / DIMENSIONS) + unit(block[d % 4])))
        out[d] = FIRST_SHARE * shelf.centre[first, d] + SECOND_SHARE * shelf.centre[second, d] + law.drift * wave


@compiled
def click_logit(law: Any, shelf: Shelf, liking: np.ndarray, slot: int) -> float:
    """Of a click on what the slot holds, once it is looked at. `liking`: the user's taste."""
    product = 0.0
    for d in range(DIMENSIONS):
        product += liking[d] * shelf.vector[slot, d]
    return float(law.click_logit + law.affinity * product + shelf.quality[slot])


@compiled
def buyer_logit(law: Any, user: int, block: np.ndarray) -> float:
    """The user's part in conversions."""
    draw(law, USER, user, 1, block)
    return float(law.conversion_user_sd * normals(block[0], block[1])[0])


@compiled
def conversion_logit(law: Any, shelf: Shelf, buyer: float, slot: int, ts_ms: int) -> float:
    """Of a conversion within `attribution_hours`, once it is clicked."""
    hours = (ts_ms - law.start_ms) / HOUR_MS
    own = math.sin(2.0 * math.pi * (hours / law.conversion_drift_hours + shelf.conversion[slot, 1]))
    common = math.sin(2.0 * math.pi * hours / law.conversion_wave_hours)
    drift = law.conversion_drift * math.sqrt(2.0) * own + law.conversion_wave * common
    return float(law.conversion_logit + buyer + shelf.conversion[slot, 0] + drift)
