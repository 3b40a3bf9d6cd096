"""Settings of SUPA: what is refused and by which name, the published ones, and how they reach the kernel."""

from dataclasses import replace
from math import inf, log, nan
from typing import Any

import numpy as np
import pytest

from core.errors import SettingsError
from learners.supa import SupaConfig
from learners.supa.config import POSITIVE_TYPES, paper
from learners.supa.neighbours import ANY, EXP, LOG, REV

TWO = (("engage", ("click", "like")), ("buy", ("purchase",)))
MANY_RELATIONS = tuple((f"r{k}", (f"t{k}",)) for k in range(256))
MANY_TYPES = tuple(f"type {k}" for k in range(256))
ABOVE_ZERO = ("rate", "max_gradient_norm", "initial_scale", "decay_unit_seconds")
WRONG: tuple[tuple[str, dict[str, Any]], ...] = (
    ("dimensions", {"dimensions": 12}),
    ("dimensions", {"dimensions": 0}),
    ("dimensions", {"dimensions": -8}),
    ("relations", {"relations": ()}),
    ("relations", {"relations": MANY_RELATIONS}),
    ("relations", {"relations": (("a", ("click",)), ("b", ("click",)))}),
    ("relations", {"relations": (("a", ("click", "click")),)}),
    ("undo_types", {"undo_types": ("purchase",)}),
    ("undo_types", {"undo_types": ("hate", "hate")}),
    ("node_types", {"node_types": ()}),
    ("node_types", {"node_types": MANY_TYPES}),
    ("seed", {"seed": -1}),
    ("admit_after", {"admit_after": 0}),
    ("admit_after", {"admit_after": 256}),
    ("stay_per_doubling", {"stay_per_doubling": -0.1}),
    ("ring_size", {"ring_size": 0}),
    ("ring_size", {"ring_size": 32_768}),
    ("walks", {"walks": -1}),
    ("walk_length", {"walk_length": 0}),
    ("newest_of", {"newest_of": 0}),
    ("negatives", {"negatives": 0}),
    ("typed_share", {"typed_share": -0.1}),
    ("typed_share", {"typed_share": 1.1}),
    ("negative_block_rows", {"negative_block_rows": 0}),
    ("bias_rate", {"bias_rate": -0.1}),
    ("forget_half_life_seconds", {"forget_half_life_seconds": -1.0}),
    *((name, {name: wrong}) for name in ABOVE_ZERO for wrong in (0, -0.1, nan, inf)),
    *((name, {name: wrong}) for name in ("hop_weight", "bias_rate", "stay_per_doubling") for wrong in (nan, inf, -1)),
    ("tau", {"tau": 1.5}),
    ("tau", {"tau": nan}),
    ("threads", {"threads": 0}),
    ("relations", {"relations": (("a", ("click",)), ("a", ("like",)))}),
    ("node_types", {"node_types": ("user", "user")}),
    ("propagation", {"propagation": "weights"}),
    ("decay", {"decay": "linear"}),
    ("loss", {"loss": "bpr"}),
    ("serving", {"serving": "dot"}),
    ("passes", {"passes": -1}),
    ("validation_edges", {"validation_edges": 0}),
    ("validation_edges", {"validation_edges": 1024}),
    ("validate_every", {"validate_every": 0}),
    ("patience", {"patience": 0}),
    ("schemas", {"schemas": (("shop", ((("*",), "item"),)),)}),
    ("schemas", {"schemas": (("user", ((("*",), "shop"),)),)}),
    ("schemas", {"schemas": (("user", ((("sell",), "item"),)),)}),
    ("schemas", {"schemas": (("user", ((("*",), "item"),)), ("item", ((("*",), "user"), (("*",), "item"))))}),
)  # fmt: skip


@pytest.mark.parametrize(("name", "wrong"), WRONG, ids=lambda value: value if isinstance(value, str) else str(value)[:40])
def test_a_value_that_cannot_work_is_refused_by_its_name(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"`{name}`"):
        SupaConfig(**wrong)


@pytest.mark.parametrize(
    "right",
    [
        {"dimensions": 8}, {"relations": MANY_RELATIONS[:255]}, {"node_types": MANY_TYPES[:255]}, {"undo_types": ("hate",)},
        {"typed_share": 0.0}, {"typed_share": 1.0}, {"walks": 0}, {"bias_rate": 0.0}, {"stay_per_doubling": 0.0}, {"admit_after": 255},
        {"validation_edges": 1023},
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_the_last_value_that_works_is_taken(right: dict[str, Any]) -> None:
    assert SupaConfig(**right).rule().sample.negatives == 40


def test_each_event_type_has_its_relation() -> None:
    assert SupaConfig(relations=TWO).relation_of() == {"click": 0, "like": 0, "purchase": 1}
    assert SupaConfig().relation_of() == dict.fromkeys(POSITIVE_TYPES, 0)


def test_the_kernel_is_told_the_settings() -> None:
    config = SupaConfig(seed=5, typed_share=0.3, negatives=7, decay_unit_seconds=2.5, forget_half_life_seconds=60.0, negative_block_rows=3)
    rule = config.rule()
    assert (int(rule.sample.seed), rule.sample.negatives, rule.sample.typed, rule.sample.block_rows) == (5, 7, 2, 3)
    assert rule.sample.walk.unit_ms == 2500.0 and rule.forget_per_ms == pytest.approx(log(2) / 60_000)
    assert (rule.rates.vectors, rule.rates.biases, rule.rates.max_gradient_norm) == (config.rate, config.bias_rate, 10.0)
    assert [SupaConfig(decay=name).rule().sample.walk.decay for name in ("log", "exp", "rev")] == [LOG, EXP, REV]
    assert not (rule.sigmoid or rule.interaction or rule.published or rule.sample.walk.published)
    assert SupaConfig(forget_half_life_seconds=0).rule().forget_per_ms == 0.0


def test_schemas_become_arrays() -> None:
    hops = ((("buy",), "item"), (("*",), "*"))
    config = SupaConfig(relations=TWO, schemas=(("item", hops), ("user", (*hops[1:], (("buy", "engage"), "user")))))
    walk = config.rule().sample.walk
    assert walk.starts.tolist() == [1, 0]
    assert walk.hop_types.tolist() == [[1, ANY], [ANY, 0]]
    assert walk.hop_relations.tolist() == [[[False, True], [True, True]], [[True, True], [True, True]]]


def test_without_schemas_the_arrays_are_empty() -> None:
    walk = SupaConfig(relations=TWO).rule().sample.walk
    assert walk.starts.shape == (0,) and walk.hop_types.shape == (0, 0) and walk.hop_relations.shape == (0, 0, 2)
    assert walk.hop_relations.dtype == np.bool_


def test_the_published_settings_have_every_part_of_the_paper() -> None:
    config, rule = paper(seed=3, dimensions=64), paper().rule()
    assert rule.sigmoid and rule.interaction and rule.published and rule.sample.walk.published and config.short_vector
    assert rule.sample.typed == 0 and rule.rates.biases == 0.0
    assert (rule.sample.walk.newest_of, rule.sample.walk.hop_weight, rule.sample.walk.tau) == (1, 1.0, 0.3)
    assert (rule.sample.walk.walks, rule.sample.walk.length, rule.sample.walk.decay) == (10, 3, LOG)
    assert rule.sample.walk.unit_ms == 4 * 86_400_000
    assert (config.passes, config.batch_edges, config.validation_edges, config.validate_every, config.patience) == (100, 1024, 200, 1, 1)
    assert (config.seed, config.dimensions, paper().dimensions, config.initial_scale) == (3, 64, 128, 0.1)


def test_a_rebuild_is_for_what_shapes_the_rows() -> None:
    first = SupaConfig().identity
    shaping = ({"dimensions": 8}, {"ring_size": 4}, {"relations": TWO}, {"node_types": ("a",)}, {"short_vector": True}, {"passes": 1})
    assert all(SupaConfig(**changes).identity != first for changes in shaping)  # type: ignore[arg-type]
    free = ({"rate": 0.1}, {"walks": 3}, {"admit_after": 2}, {"batch_edges": 500}, {"loss": "sigmoid"}, {"seed": 1})
    assert all(SupaConfig(**changes).identity == first for changes in free)  # type: ignore[arg-type]
    with_passes = SupaConfig(passes=1)
    assert replace(with_passes, batch_edges=500).identity != with_passes.identity != replace(with_passes, validation_edges=9).identity
    assert replace(with_passes, passes=2).identity == with_passes.identity
