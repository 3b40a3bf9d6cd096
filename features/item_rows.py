"""The kernel of the item stage: what an event does to its item, the item's author and its category."""

from typing import NamedTuple

import numpy as np

from core.clock import MS, UNSET
from core.compiled import compiled, inlined
from features.config import ItemConfig
from features.declarations import ROOM_FEATURES
from features.entity import Plan, Views, blank, observe, plan
from features.popularity import observe_popularity

CATALOGUE = -2  # in place of a type's code
NONE_MS = 0  # a start or an end that is not given
ROOM_COLUMNS = len(ROOM_FEATURES)


class ItemEvents(NamedTuple):
    """n rows of `examples`: events and catalogue entries."""

    item: np.ndarray  # int64 [n], row of the item, -1 where the example has none
    author: np.ndarray  # int64 [n], row of the item's author at the event, -1: none
    category: np.ndarray  # int64 [n], likewise
    ts_ms: np.ndarray  # int64 [n], effective event times; of a catalogue entry its start, or NONE_MS
    end_ms: np.ndarray  # int64 [n], of a catalogue entry its end, or NONE_MS
    clock_ms: np.ndarray  # int64 [n], merged clock, 0 before it is set
    code: np.ndarray  # int64 [n], type, -1 of one that is not counted; CATALOGUE of an entry
    value: np.ndarray  # float64 [n], NaN: none
    user: np.ndarray  # int64 [n], hash of the user, or NOBODY
    engaged: np.ndarray  # bool [n], whether it makes the item popular


class Tables(NamedTuple):
    """What the kernel updates."""

    items: Views
    authors: Views
    categories: Views
    popular: np.ndarray  # float64 [items], see `features.popularity`
    popular_ms: np.ndarray  # int64 [items]
    first_ms: np.ndarray  # int64 [items], when it was first seen
    start_ms: np.ndarray  # int64 [items]
    end_ms: np.ndarray  # int64 [items]
    viewers: np.ndarray  # int64 [items], in the room
    version: np.ndarray  # int64 [items]


class ItemPlan(NamedTuple):
    """What the kernel is told."""

    item: Plan
    author: Plan
    category: Plan
    enter: int  # codes; -2 where there is no such type
    exit: int
    popularity_half_life_ms: float
    blank: np.ndarray  # float32 [columns], of an item of which nothing is known


@compiled
def learn_items(of: ItemPlan, events: ItemEvents, tables: Tables, first_version: int, before: np.ndarray) -> None:
    """Row by row: first sight, features as they were, then learn.

    Args:
        first_version: of the first row; they go up by one.
        before: float32 [n, columns]. Filled on events with an item; left as it is on other rows.
    """
    for i in range(events.item.shape[0]):
        at, ts_ms = events.item[i], events.ts_ms[i]
        if at < 0:
            continue
        tables.version[at] = first_version + i
        if tables.first_ms[at] == UNSET:
            tables.first_ms[at] = events.clock_ms[i] if events.clock_ms[i] != UNSET else ts_ms
        if events.code[i] == CATALOGUE:
            tables.start_ms[at], tables.end_ms[at] = ts_ms, events.end_ms[i]
        else:
            learn_event(of, events, tables, i, before[i])


@inlined
def learn_event(of: ItemPlan, events: ItemEvents, tables: Tables, i: int, before: np.ndarray) -> None:
    """One event of an item, its author and its category."""
    at, ts_ms, code, value, user = events.item[i], events.ts_ms[i], events.code[i], events.value[i], events.user[i]
    before[:] = of.blank
    width, group = of.item.width, of.author.width
    observe(of.item, tables.items, at, ts_ms, code, value, user, before[:width])
    see_room(of, tables, at, ts_ms, code, before[width : width + ROOM_COLUMNS])
    width += ROOM_COLUMNS
    if events.author[i] >= 0:
        observe(of.author, tables.authors, events.author[i], ts_ms, code, value, user, before[width : width + group])
    if events.category[i] >= 0:
        observe(of.category, tables.categories, events.category[i], ts_ms, code, value, user, before[width + group :])
    if events.engaged[i]:
        tables.popular[at] = observe_popularity(tables.popular[at], tables.popular_ms[at], ts_ms, of.popularity_half_life_ms)
        tables.popular_ms[at] = max(tables.popular_ms[at], ts_ms)


@inlined
def see_room(of: ItemPlan, tables: Tables, at: int, ts_ms: int, code: int, before: np.ndarray) -> None:
    """Fill age, whether it is open, and viewers; then count who comes and goes."""
    start_ms, end_ms = tables.start_ms[at], tables.end_ms[at]
    born_ms = start_ms if start_ms != NONE_MS else tables.first_ms[at]
    before[0] = max(0, ts_ms - born_ms) / MS
    before[1] = start_ms != NONE_MS and start_ms <= ts_ms and (end_ms == NONE_MS or ts_ms < end_ms)
    before[2] = tables.viewers[at]
    if code == of.enter:
        tables.viewers[at] += 1
    elif code == of.exit and tables.viewers[at] > 0:
        tables.viewers[at] -= 1


def item_plan(config: ItemConfig) -> ItemPlan:
    """What the kernel is told of the settings."""
    item, author, category = plan(config.item, "item"), plan(config.group, "author"), plan(config.group, "category")
    enter, leave = config.codes.get("enter", -2), config.codes.get("exit", -2)
    groups = [blank(author), blank(category)]
    nothing = np.concatenate([blank(item), np.zeros(ROOM_COLUMNS, dtype=np.float32), *groups])
    return ItemPlan(item, author, category, enter, leave, float(config.popularity_half_life_seconds * MS), nothing)
