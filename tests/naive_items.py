"""The slow, obvious twins of `ItemFeatures`, and what records the columns of the real one."""

import math
from collections import Counter

import msgspec

from core.hashing import fingerprint
from core.schemas import ITEM, TICK
from tests.naive_features import NaiveEntity


class NaiveItems:
    """One example at a time; the item's decayed counters by type, and popularity as a sum over all engaged events."""

    def __init__(self, config, upstreams):
        self.config, self.clocks, self.ordinal, self.items, self.gone = config, [0] * upstreams, 0, {}, {}
        self.width = len(config.types) * len(config.half_lives_seconds)
        self.learned_ms = 0  # merged clock at the last example; a part sees no ticks

    def learn(self, row):
        """The counters before the row; None for a tick."""
        if row["upstream"] >= 0:
            self.clocks[row["upstream"]] = max(self.clocks[row["upstream"]], row["clock_ms"])
        if row["kind"] == TICK:
            return None
        self.ordinal, self.learned_ms = self.ordinal + 1, min(self.clocks)
        before = [0.0] * self.width
        if row["item_id"] is None:
            return before
        if row["kind"] == ITEM and row["item"] is None:
            if row["item_id"] in self.items:
                self.gone[row["item_id"]] = (self.ordinal, self.items.pop(row["item_id"])["last"])
            return before
        self.gone.pop(row["item_id"], None)
        item = self.items.setdefault(
            row["item_id"], {"counts": Counter(), "last": 0, "first": 0, "start": None, "end": None, "engaged": []}
        )
        item["version"] = self.ordinal
        if row["kind"] == ITEM:
            return self.shelve(item, row)
        return self.count(item, row)

    def shelve(self, item, row):
        entry = msgspec.json.decode(row["item"])
        item.update(start=entry.get("start"), end=entry.get("end"), first=item["first"] or min(self.clocks) or entry.get("start", 0))
        return [0.0] * self.width

    def count(self, item, row):
        ts = self.time(row)
        item["first"] = item["first"] or min(self.clocks) or ts
        counts, late = item["counts"], ts < item["last"]
        for key in counts:
            counts[key] *= 1.0 if late else math.exp2(-(ts - item["last"]) / (key[1] * 1000))
        before = [counts[t, h] for t in self.config.types for h in self.config.half_lives_seconds]
        if row["type"] in self.config.types:
            for h in self.config.half_lives_seconds:
                counts[row["type"], h] += math.exp2(-(item["last"] - ts) / (h * 1000)) if late else 1.0
        if row["type"] in self.config.popularity_types:
            item["engaged"].append(ts)
        item["last"] = max(item["last"], ts)
        return before

    def time(self, row):
        """The event's time, held to its own partition's clock."""
        return min(row["ts_ms"], row["clock_ms"] + self.config.future_seconds * 1000) if row["clock_ms"] else row["ts_ms"]

    def score(self, id_, at_ms):
        """log2 of the decayed count at a time, None without an event."""
        engaged = self.items[id_]["engaged"]
        h = self.config.popularity_half_life_seconds * 1000
        return math.log2(math.fsum(math.exp2((ts - at_ms) / h) for ts in engaged)) if engaged else None


class NaiveItemColumns(NaiveItems):
    """All columns, from every event that there was: for few events alone."""

    def __init__(self, config, upstreams):
        super().__init__(config, upstreams)
        self.width, self.groups = config.width, {"author": {}, "category": {}}

    def shelve(self, item, row):
        entry = msgspec.json.decode(row["item"])
        item["author"], item["category"] = entry.get("author"), next(iter(entry.get("categories", [])), None)
        return super().shelve(item, row)

    def count(self, item, row):
        ts = self.time(row)
        super().count(item, row)
        item.setdefault("entity", NaiveEntity(self.config.item, "item"))
        told = [item["entity"], *(self.group(name, item.get(name)) for name in ("author", "category"))]
        room = self.room(item, row["type"], ts)
        columns = [entity.before(ts) for entity in told]
        before = [*columns[0], *room, *columns[1], *columns[2]]
        type_ = row["type"] if row["type"] in self.config.types else None
        for entity in told:
            entity.learn(ts, type_, row["value"], int.from_bytes(fingerprint(row["user_id"])[:8], "little", signed=True))
        return before

    def group(self, name, id_):
        """The author, or category; of none, one that nobody sees again."""
        fresh = NaiveEntity(self.config.group, name)
        return self.groups[name].setdefault(id_, fresh) if id_ is not None else fresh

    def room(self, item, type_, ts):
        """Age, open, viewers."""
        start, end, viewers = item["start"], item["end"], item.setdefault("viewers", 0)
        item["viewers"] = max(0, viewers + (type_ == "enter") - (type_ == "exit"))
        opened = start is not None and start <= ts and (end is None or ts < end)
        return [max(0, ts - (start or item["first"])) / 1000, float(opened), float(viewers)]


class Recorder:
    """Keeps what `items` added for the parts after it."""

    name = "recorder"

    def __init__(self):
        self.columns = []

    def learn_many(self, examples):
        self.columns.append(examples.columns["item_features"])

    def maintain(self, ordinal, clock_ms):
        pass

    def touched(self):
        return {}
