"""Catalogue entries of the items that a world has had up to a time."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from core.compiled import compiled
from core.randomness import unit
from evaluation.world.config import WorldConfig
from evaluation.world.laws import ITEM, draw, slot_life, topic_of

SLOTS_AT_ONCE = 1 << 16
WORDS, WORDS_A_TOPIC, AUTHORS_A_TOPIC = 5, 40, 20  # a text is that many of the topic's words


def entries(config: WorldConfig, until_ms: int) -> Iterator[pl.DataFrame]:
    """Frames of item_id, text, categories, tags, author, start, end (epoch ms): each item live in [start_ms, until_ms], some slots a frame.

    The topic is the category, its words are the text, and authors keep to a topic: an item says at its birth what it is about.
    """
    law = config.law()
    for first in range(0, config.items, SLOTS_AT_ONCE):
        slots = np.arange(first, min(first + SLOTS_AT_ONCE, config.items))
        room, life_ms, age_ms = lives(law, slots)
        count = (until_ms - config.start_ms + age_ms) // life_ms + 1
        row = np.repeat(np.arange(slots.size), count)
        generation = np.arange(row.size) - np.repeat(np.cumsum(count) - count, count)
        item = generation * config.items + slots[row]
        start_ms = config.start_ms + generation * life_ms[row] - age_ms[row]
        yield _frame(item, contents(law, item), room[row], start_ms, start_ms + life_ms[row])


@compiled
def lives(law: Any, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each slot: bool room, int64 length of a life and age of the first item at the start, ms."""
    block, n = np.empty(4, dtype=np.uint64), slots.shape[0]
    room, life_ms, age_ms = np.empty(n, dtype=np.bool_), np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    for i in range(n):
        room[i], life_ms[i], age_ms[i] = slot_life(law, slots[i], block)
    return room, life_ms, age_ms


@compiled
def contents(law: Any, items: np.ndarray) -> np.ndarray:
    """int64 [n, 2 + WORDS]: topic, author of the topic, words of the topic."""
    block, out = np.empty(4, dtype=np.uint64), np.empty((items.shape[0], 2 + WORDS), dtype=np.int64)
    for i in range(items.shape[0]):
        out[i, 0] = topic_of(law, items[i], block)
        draw(law, ITEM, items[i], 1, block)
        out[i, 1] = int(unit(block[1]) * AUTHORS_A_TOPIC)
        for k in range(WORDS):
            draw(law, ITEM, items[i], 100 + k, block)
            out[i, 2 + k] = int(unit(block[0]) * WORDS_A_TOPIC)
    return out


def _frame(item: np.ndarray, told: np.ndarray, room: np.ndarray, start_ms: np.ndarray, end_ms: np.ndarray) -> pl.DataFrame:
    columns = {"topic": told[:, 0], "author": told[:, 1], **{f"word{k}": told[:, 2 + k] for k in range(WORDS)}}
    numbers = pl.DataFrame({"item": item, "room": room, "start": start_ms, "end": end_ms, **columns})
    words = [pl.format("t{}w{}", "topic", f"word{k}") for k in range(WORDS)]
    return numbers.select(
        item_id=pl.format("i{}", "item"),
        text=pl.concat_str(words, separator=" "),
        categories=pl.concat_list(pl.format("topic-{}", "topic")),
        tags=pl.concat_list(pl.when("room").then(pl.lit("room")).otherwise(pl.lit("video"))),
        author=pl.format("t{}a{}", "topic", "author"),
        start="start",
        end="end",
    )
