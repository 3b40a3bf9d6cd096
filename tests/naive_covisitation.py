"""The slow, obvious twin of `Covisitation`."""

import math

import numpy as np

from core.ids import SEGMENT_ROWS
from core.schemas import ITEM, TICK

RESERVE = 2 * SEGMENT_ROWS  # free rows that every segment begins with


class NaiveCovisitation:
    """One example at a time, with dicts; what is gone is looked for everywhere and deleted."""

    def __init__(self, config, upstreams):
        self.config, self.clocks, self.ordinal = config, [0] * upstreams, 0
        self.users, self.items = {}, {}  # in order of last use: user -> last item and time, or None; item -> slots and what was told
        self.changed, self.gone = {}, {}
        self.learned_ms = 0  # merged clock at the last example; a part sees no ticks
        self.life_ms = config.half_life_seconds * 1000.0

    def learn(self, row):
        """The count of the step from the user's last item as it was; None for a tick."""
        if row["upstream"] >= 0:
            self.clocks[row["upstream"]] = max(self.clocks[row["upstream"]], row["clock_ms"])
        if row["kind"] == TICK:
            return None
        self.ordinal, self.learned_ms, before = self.ordinal + 1, min(self.clocks), 0.0
        if row["kind"] == ITEM:
            if row["item"] is None and row["item_id"] in self.items:
                self.remove([row["item_id"]])
        elif row["user_id"] is not None and row["item_id"] is not None:
            before = self.before(row["user_id"], row["item_id"], self.time(row))
            if row["type"] in self.config.types:
                self.count(row["user_id"], row["item_id"], self.time(row))
        if self.ordinal % SEGMENT_ROWS == 0:
            self.make_room()
        return before

    def before(self, user, item, ts):
        """0 where the step is unknown, or too long."""
        last = self.users.get(user)
        if not last or last[0] == item or abs(ts - last[1]) > self.config.session_gap_seconds * 1000:
            return 0.0
        found = [slot["times"] for slot in self.items[last[0]]["slots"] if slot and slot["id"] == item]
        return math.fsum(2.0 ** ((at - ts) / self.life_ms) for at in found[0]) if found else 0.0

    def time(self, row):
        return min(row["ts_ms"], row["clock_ms"] + self.config.future_seconds * 1000) if row["clock_ms"] else row["ts_ms"]

    def count(self, user, item, ts):
        last = self.users.pop(user, None)
        self.items[item] = self.items.pop(item, None) or {"slots": [None] * self.config.neighbours, "version": 0, "event": 0}
        if last and last[0] != item and abs(ts - last[1]) <= self.config.session_gap_seconds * 1000:
            self.step(last[0], item, ts)
            if self.config.both_ways:
                self.step(item, last[0], ts)
        self.users[user] = last if last and ts < last[1] else (item, ts)

    def step(self, item, to, ts):
        entry = self.items[item]
        entry["version"], entry["event"] = self.ordinal, max(entry["event"], ts)
        self.changed[item] = None
        slots, now = entry["slots"], ts / self.life_ms
        held = [slot["id"] if slot else None for slot in slots]
        if to in held:
            slot = slots[held.index(to)]
            low, high = sorted([slot["score"], now])
            slot["score"] = high + math.log2(1.0 + 2.0 ** (low - high))
            slot["times"].append(ts)
            return
        scores = [slot["score"] if slot else -math.inf for slot in slots]
        slots[scores.index(min(scores))] = {"id": to, "score": now, "times": [ts]}

    def remove(self, ids):
        for id_ in ids:
            entry = self.items.pop(id_)
            self.changed.pop(id_, None)
            if entry["version"]:
                self.gone[id_] = (self.ordinal, entry["event"])
        gone = set(ids)
        for entry in self.items.values():
            entry["slots"] = [None if slot and slot["id"] in gone else slot for slot in entry["slots"]]
        for user, last in self.users.items():
            if last and last[0] in gone:
                self.users[user] = None

    def make_room(self):
        for user in self.longest_unused(self.users, self.config.user_capacity):
            del self.users[user]
        self.remove(self.longest_unused(self.items, self.config.item_capacity))

    def longest_unused(self, table, capacity):
        room = capacity - len(table)
        return list(table)[: max(RESERVE, capacity // 64) - room] if room < RESERVE else []

    def ranked(self, item):
        """The slots in use, highest first."""
        return sorted((slot for slot in self.items[item]["slots"] if slot), key=lambda slot: -slot["score"])

    def score(self, user, item):
        """As of the clock; None where there is none."""
        last = self.users.get(user)
        found = [slot["score"] for slot in self.items[last[0]]["slots"] if slot and slot["id"] == item] if last else []
        return found[0] - self.learned_ms / self.life_ms if found else None

    def touched(self):
        """What is to be published, as dicts."""
        told = [self.told(id_) for id_ in self.changed]
        for id_, (version, event_ms) in self.gone.items():
            if id_ not in self.changed:
                told.append({"id": id_, "version": version, "event_ms": event_ms, "removed": True, "neighbours": None, "scores": None})
        self.changed, self.gone = {}, {}
        return told

    def told(self, id_):
        ranked, entry = self.ranked(id_), self.items[id_]
        return {
            "id": id_,
            "version": entry["version"],
            "event_ms": entry["event"],
            "removed": False,
            "neighbours": [slot["id"] for slot in ranked],
            "scores": [float(np.float32(slot["score"] - ranked[0]["score"])) for slot in ranked],
        }
