"""The simulated world once more, in plain Python: a request at a time, each item drawn anew, numbers from numpy's own Philox."""

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from evaluation.world import WorldConfig

STREAMS = ("topic", "slot", "item", "user", "taste", "minute", "arrival", "request", "page", "response")
HOUR_MS = 3_600_000
SIGMAS = 4.5  # of a sum of independent draws: seeds are fixed, so a test that passes goes on passing
SMALL = WorldConfig(
    seed=3, users=50, items=200, requests_per_second=1.0, room_share=0.3, room_life_minutes=20.0, item_life_hours=1.0, change_hours=1.0,
    conversion_logit=-0.5, conversion_scales_hours=(0.02, 0.1, 0.3), attribution_hours=0.5,
)  # fmt: skip


def unit(bits: int) -> float:
    return (bits >> 11) / 2**53


def normals(first: int, second: int) -> tuple[float, float]:
    length = math.sqrt(-2 * math.log(1 - unit(first)))
    return length * math.cos(2 * math.pi * unit(second)), length * math.sin(2 * math.pi * unit(second))


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def zipf(share: float, n: int, exponent: float) -> int:
    """The whole part of the x in [1, n + 1) below which the area of x^-exponent is that share, by halving; less 1."""

    def area(x: float) -> float:
        return math.log(x) if exponent == 1 else (x ** (1 - exponent) - 1) / (1 - exponent)

    low, high = 1.0, n + 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if area(middle) <= share * area(n + 1) else (low, middle)
    return min(int(high) - 1, n - 1)


def assert_expected(found: float, p: np.ndarray) -> None:
    """`found` successes of independent draws with probabilities p."""
    assert abs(found - p.sum()) < SIGMAS * np.sqrt((p * (1 - p)).sum()) + 1e-9, (found, p.sum())


class NaiveWorld:
    def __init__(self, config: WorldConfig) -> None:
        self.c = config
        self.item = lru_cache(maxsize=None)(self._item)
        self.centres = [self._centre(topic) for topic in range(config.topics)]

    def draw(self, stream: str, position: int, number: int) -> list[int]:
        key, counter = self.c.seed + ((STREAMS.index(stream) + 1) << 64), (number % 2**64 + (position << 64) - 1) % 2**256
        return [int(word) for word in np.random.Philox(key=key, counter=counter).random_raw(4)]

    def _centre(self, topic: int) -> np.ndarray:
        words = [*self.draw("topic", topic, 0), *self.draw("topic", topic, 4)]
        found = np.array([number for pair in zip(words[::2], words[1::2], strict=True) for number in normals(*pair)])
        return found / np.linalg.norm(found)

    def life(self, slot: int, ts_ms: int) -> tuple[int, int, int, bool]:
        """(item, start, end, whether it is a room)."""
        c, words = self.c, self.draw("slot", slot, 0)
        room = unit(words[0]) < c.room_share
        life_ms = int((c.room_life_minutes * 60_000 if room else c.item_life_hours * HOUR_MS) * (0.5 + unit(words[1])))
        start_ms, generation = c.start_ms - int(life_ms * unit(words[2])), 0
        while start_ms + life_ms <= ts_ms:
            start_ms, generation = start_ms + life_ms, generation + 1
        return generation * c.items + slot, start_ms, start_ms + life_ms, room

    def _item(self, item: int) -> tuple[np.ndarray, float, float, float, float]:
        """(vector, quality, logits of conversion, phase of its drift, delay scale in ms)."""
        c, words = self.c, self.draw("item", item, 0)
        noise = [2 * unit(word) - 1 for number in (2, 6) for word in self.draw("item", item, number)]
        quality, conversion = normals(words[2], words[3])
        vector = self.centres[words[0] % c.topics] + c.topic_spread * np.array(noise)
        scale_ms = c.conversion_scales_hours[words[1] % 3] * HOUR_MS
        return vector, c.quality_sd * quality, c.conversion_item_sd * conversion, unit(self.draw("item", item, 1)[0]), scale_ms

    def taste(self, user: int, ts_ms: int) -> np.ndarray:
        c, period_ms = self.c, self.c.change_hours * HOUR_MS
        ahead, number = unit(self.draw("user", user, 0)[0]), -1

        def begins(number: int) -> float:
            return (number - ahead + unit(self.draw("user", user, 3 + number)[0]) / 2) * period_ms

        while begins(number + 1) <= ts_ms - c.start_ms:
            number += 1
        words = self.draw("taste", user, number + 1)
        first = words[0] % c.topics
        second = list(range(first + 1, first + c.topics))[words[1] % (c.topics - 1)] % c.topics
        phases = [unit(word) for block in (-1, -5) for word in self.draw("taste", user, block)]
        turns = (ts_ms - c.start_ms) / HOUR_MS / c.drift_hours
        wave = [math.sin(2 * math.pi * (turns * 8 / (8 + d) + phase)) for d, phase in enumerate(phases)]
        return 0.8 * self.centres[first] + 0.6 * self.centres[second] + c.drift * np.array(wave)

    def logit(self, user: int, slot: int, ts_ms: int) -> float:
        vector, quality, *_ = self.item(self.life(slot, ts_ms)[0])
        return self.c.click_logit + self.c.affinity * float(self.taste(user, ts_ms) @ vector) + quality

    def conversion(self, user: int, item: int, ts_ms: int) -> float:
        c, hours = self.c, (ts_ms - self.c.start_ms) / HOUR_MS
        _, _, own, phase, _ = self.item(item)
        words = self.draw("user", user, 1)
        drift = c.conversion_drift * math.sqrt(2) * math.sin(2 * math.pi * (hours / c.conversion_drift_hours + phase))
        wave = c.conversion_wave * math.sin(2 * math.pi * hours / c.conversion_wave_hours)
        return sigmoid(c.conversion_logit + c.conversion_user_sd * normals(words[0], words[1])[0] + own + drift + wave)

    def page(self, number: int, user: int | None, ts_ms: int) -> list[int]:
        """Slots in the order of choice; no user: a bot."""
        c, chosen = self.c, list[int]()
        for _ in range(c.page):
            found = []
            for number_of_try in range(1 if user is None else c.tries):
                words = self.draw("page", number, len(chosen) * c.tries + number_of_try)
                slot = zipf(unit(words[1]), c.items, 0.0 if unit(words[0]) < c.explore else c.item_exponent)
                while slot in chosen:
                    slot = (slot + 1) % c.items
                found.append(slot)
            chosen.append(found[0] if user is None else max(found, key=lambda slot: self.logit(user, slot, ts_ms)))
        return chosen

    def request(self, number: int, ts_ms: int) -> Iterator[tuple[float, ...]]:
        """(ts_ms, user, item, type, place, value, click, conversion) of each row."""
        c, words = self.c, self.draw("request", number, 0)
        bot = unit(words[0]) < c.bot_share
        user = c.users + int(unit(words[1]) * c.bots) if bot else zipf(unit(words[1]), c.users, c.user_exponent)
        slots = self.page(number, None if bot else user, ts_ms)
        for place in range(c.page):
            slot = slots[(place + words[2] % c.page) % c.page]
            looked = c.bot_click if bot else sigmoid(self.logit(user, slot, ts_ms)) / (place + 1) ** c.position_exponent
            for row in self.shown(number, ts_ms, slot, place, looked, None if bot else user):
                yield row[0], user, self.life(slot, ts_ms)[0], row[1], place + 1, *row[2:]

    def shown(self, number: int, ts_ms: int, slot: int, place: int, looked: float, user: int | None) -> Iterator[tuple[float, ...]]:
        c, words, (item, _, end_ms, room) = self.c, self.draw("response", number, 2 * place), self.life(slot, ts_ms)
        converts = 0.0 if user is None else self.conversion(user, item, ts_ms)
        yield ts_ms, 0, math.nan, looked * (1 - math.exp(-(end_ms - ts_ms) / 1_000 / c.click_seconds)), converts
        at = ts_ms - 1_000 * c.click_seconds * math.log(1 - unit(words[1]))
        if unit(words[0]) >= looked or at >= end_ms:
            return
        yield int(at), 1, math.nan, 0, 0
        if user is None:
            return
        left = min(end_ms, at - 1_000 * (c.room_seconds if room else c.watch_seconds) * math.log(1 - unit(words[2])))
        if room:
            yield int(at), 3, math.nan, 0, 0
        yield int(left), 4 if room else 2, (int(left) - int(at)) / 1_000, 0, 0
        if unit(words[3]) < converts:
            scale_ms, share = self.item(item)[4], unit(self.draw("response", number, 2 * place + 1)[0])
            delay_ms = -scale_ms * math.log(1 - share * (1 - math.exp(-c.attribution_hours * HOUR_MS / scale_ms)))
            yield int(at + delay_ms), 5, math.nan, 0, 0

    def arrivals(self, count: int) -> Iterator[int]:
        """Times at which the expected number of requests, summed over the minutes, is the sum of the gaps."""
        c, load, minute, before = self.c, 0.0, -1, 0.0
        ends = before
        for number in range(count):
            load -= math.log(1 - unit(self.draw("arrival", number, 0)[0]))
            while ends <= load:
                minute, before = minute + 1, ends
                burst = c.burst_times if unit(self.draw("minute", minute, 0)[0]) < c.burst_share else 1.0
                ends += 60 * c.requests_per_second * burst * (1 + c.daily_wave * math.sin(2 * math.pi * minute / 1_440))
            yield c.start_ms + int(60_000 * (minute + (load - before) / (ends - before)))
