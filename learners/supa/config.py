"""Settings of SUPA. Defaults were compared on UCI and Taobao; `python -m benchmarks supa` measures every part of them."""

from dataclasses import dataclass, replace
from math import inf, log
from typing import Any

import numpy as np

from core.errors import SettingsError
from learners.supa.descent import Rates
from learners.supa.kernel import Rule
from learners.supa.neighbours import ANY, EXP, LOG, REV, WalkRule
from learners.supa.sampling import SampleRule
from learners.supa.table import LANES

POSITIVE_TYPES = ("click", "enter", "like", "follow", "comment", "share", "favourite", "cart", "purchase")
MAX_RELATIONS = 255  # neighbours keep a relation in one byte
MAX_NODE_TYPES = 255
MAX_NEIGHBOURS = 32_767  # those in use are counted in two bytes
MAX_SIGHTINGS = 255  # counted in one byte
DECAYS = {"log": LOG, "exp": EXP, "rev": REV}
TINIEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # what vectors may hold
EVERY = "*"  # in a schema: any node type, or any relation
Hop = tuple[tuple[str, ...], str]  # relations that it may take (or EVERY), node type that it leads to (or EVERY)
Schema = tuple[str, tuple[Hop, ...]]  # node type where it begins, hops


@dataclass(frozen=True)
class SupaConfig:
    """What the learner takes for an edge, and how it learns from one.

    | setting | meaning |
    |---|---|
    | seed | of initial vectors, walks and negatives |
    | dimensions | d, a multiple of 8; served vectors have 2 d |
    | node_types | names; users and items are the two of a stream |
    | relations | (name, event types) each with its own context vectors; **the first is the one served**; other types are no edges |
    | undo_types | event types that take the pair's edges out again; rows learned stay |
    | max_users, max_items | rows; the longest unused make room. Memory is taken as rows are used |
    | admit_after | sightings of an id before it gets a row; until then its edges are counted and not learned |
    | stay_per_doubling | in the order of eviction, each doubling of a node's edges is worth this part of all rows' uses |
    | ring_size | distinct neighbours remembered per node |
    | walks, walk_length | per end of an edge; 0 walks: only the edge itself |
    | schemas | metapaths: (start, ((relations, node type), ...)); nodes of a type that starts none walk uniformly |
    | newest_of | a hop takes the most recently met of so many uniform draws |
    | hop_weight | of a target met on a walk, before the decay by age |
    | propagation | `weight`: D weighs the loss of a hop; `logit`: D scales its logit, as published |
    | decay, decay_unit_seconds | g of an edge's age in units: `log` 1 / ln(e + x), `exp` e^-x, `rev` 1 / (1 + x) |
    | tau | a walk ends at an edge whose g is at or below this |
    | short_vector | adds a second vector per node that fades with g(sigmoid(alpha) age), alpha learned per node type |
    | loss | `softmax` over each target and the negatives, or `sigmoid` of each, as published |
    | interaction | adds the loss of the ends' z = (h* + c) / 2, as published |
    | negatives | per end of an edge |
    | typed_share | of the negatives that are of the type of the node that was met; the others are of any |
    | negative_block_rows | rows of the log that share their negatives: fewer rows touched and published, and warm caches |
    | rate, bias_rate | of AdaGrad; a bias rate of 0: no biases |
    | initial_scale | first vectors are uniform in (-scale, scale) |
    | max_gradient_norm | longer gradients of a vector are scaled down to it |
    | forget_half_life_seconds | of event time, in which all that was learned of a row halves; 0: never |
    | serving | `trained`: h . c + c . h, the score that the losses train; `published`: (h + c) . (h + c) |
    | threads | more than one: Hogwild, faster and not exact: two runs differ, and a restart from no restart |
    | memory_every | edges of which one teaches the weights of the memory-aware score; 0: there is no such score |
    | memory_question | `next`: whom the query meets next; `later`: at some unknown time, for which nothing of the moment speaks |
    | asking_types | node types that it is asked for; none named: all |
    | passes | N_iter: further passes over a batch of edges, at most; 0: none |
    | batch_edges, validation_edges | S_batch, and S_valid of the edges after it |
    | validate_every, patience | I_valid passes; validations without a better one before the best is returned to |

    One relation for all positive types beat one per type. What each part brings stands in docs/supa.md.

    Raises:
        SettingsError: a value cannot be used.
    """

    seed: int = 0
    dimensions: int = 160
    node_types: tuple[str, ...] = ("user", "item")
    relations: tuple[tuple[str, tuple[str, ...]], ...] = (("engage", POSITIVE_TYPES),)
    undo_types: tuple[str, ...] = ()
    max_users: int = 1 << 20
    max_items: int = 1 << 18
    admit_after: int = 1
    stay_per_doubling: float = 0.0625
    ring_size: int = 48
    walks: int = 1
    walk_length: int = 1
    schemas: tuple[Schema, ...] = ()
    newest_of: int = 1
    hop_weight: float = 0.5
    propagation: str = "weight"
    decay: str = "log"
    decay_unit_seconds: float = 345_600.0
    tau: float = 0.3
    short_vector: bool = False
    loss: str = "softmax"
    interaction: bool = False
    negatives: int = 40
    typed_share: float = 0.5
    negative_block_rows: int = 8
    rate: float = 0.15
    bias_rate: float = 0.3
    initial_scale: float = 0.2
    max_gradient_norm: float = 10.0
    forget_half_life_seconds: float = 140 * 86_400.0
    serving: str = "trained"
    threads: int = 1
    memory_every: int = 0
    memory_question: str = "next"
    asking_types: tuple[str, ...] = ()
    passes: int = 0
    batch_edges: int = 1024
    validation_edges: int = 200
    validate_every: int = 10
    patience: int = 1

    def __post_init__(self) -> None:
        if self.dimensions <= 0 or self.dimensions % LANES:
            raise SettingsError(f"`dimensions` must be a positive multiple of {LANES}, got {self.dimensions}")
        self._check_names()
        for name, (least, most) in _RANGES.items():
            if not least <= getattr(self, name) <= most:  # NaN is in no range
                raise SettingsError(f"`{name}` must be {_range_text(least, most)}, got {getattr(self, name)}")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise SettingsError(f"`{name}` must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if self.threads > 1 and (self.passes or self.memory_every):
            raise SettingsError(
                f"`threads` must be 1 with `passes` or `memory_every`, got {self.threads}: both need the order of the edges"
            )  # fmt: skip
        if self.validation_edges >= self.batch_edges:
            raise SettingsError(f"`validation_edges` must be below `batch_edges`, got {self.validation_edges} and {self.batch_edges}")
        self._schema_arrays()

    def _check_names(self) -> None:
        """Each at most once, and those that are told to exist do."""
        relations = [name for name, _ in self.relations]
        for setting, names, most in (("relations", relations, MAX_RELATIONS), ("node_types", self.node_types, MAX_NODE_TYPES)):
            if not 1 <= len(names) <= most or len(names) != len(set(names)):
                raise SettingsError(f"`{setting}` must name 1 to {most}, each once, got {', '.join(names) or 'none'}")
        types = [*self.undo_types, *(name for _, names in self.relations for name in names)]
        if len(types) != len(set(types)):
            raise SettingsError(f"`relations` and `undo_types` list an event type twice: {sorted(types)}")
        if unknown := set(self.asking_types) - set(self.node_types):
            raise SettingsError(f"`asking_types` names {unknown.pop()!r}; `node_types` has {', '.join(self.node_types)}")

    @property
    def identity(self) -> dict[str, int]:
        """What shapes stored rows, by setting: changing it is a rebuild."""
        return {
            "dimensions": self.dimensions,
            "ring_size": self.ring_size,
            "relations": len(self.relations),
            "node_types": len(self.node_types),
            "short_vector": int(self.short_vector),
            "memory": (1 + _QUESTIONS.index(self.memory_question)) * int(self.memory_every > 0),
            "passes": int(self.passes > 0),
            "batch_edges": self.batch_edges if self.passes else 0,
            "validation_edges": self.validation_edges if self.passes else 0,
        }

    def relation_of(self) -> dict[str, int]:
        """Event type -> index of its relation."""
        return {name: index for index, (_, names) in enumerate(self.relations) for name in names}

    def asks(self) -> np.ndarray:
        """bool [T]: the types that the memory-aware score is asked for."""
        return np.array([name in (self.asking_types or self.node_types) for name in self.node_types])

    @property
    def remembers(self) -> bool:
        """Whether a reader of what is published can tell the memory-aware score: it needs h and c as they are learned."""
        return self.memory_every > 0 and self.serving == "trained" and not self.short_vector and bool(self.asks()[0])

    def rule(self) -> Rule:
        """The settings as the kernel takes them."""
        walk = WalkRule(
            self.walks, self.walk_length, self.newest_of, self.hop_weight, self.propagation == "logit", DECAYS[self.decay],
            self.decay_unit_seconds * 1000.0, self.tau, *self._schema_arrays(),
        )  # fmt: skip
        typed = round(self.typed_share * self.negatives)
        sample = SampleRule(np.uint64(self.seed), self.negatives, typed, self.negative_block_rows, walk)
        half_life_ms = self.forget_half_life_seconds * 1000.0
        forget = log(2.0) / half_life_ms if half_life_ms else 0.0
        rates = Rates(self.rate, float(self.bias_rate), self.max_gradient_norm)
        return Rule(sample, rates, self.loss == "sigmoid", self.interaction, forget, self.serving == "published")

    def _schema_arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`starts`, `hop_types` and `hop_relations` of `WalkRule`."""
        longest = max((len(hops) for _, hops in self.schemas), default=0)
        if any(len(hops) != longest for _, hops in self.schemas):
            raise SettingsError("`schemas` must all have as many hops")
        starts = np.array([self._node_type(start) for start, _ in self.schemas], np.int64)
        hop_types = np.full((starts.size, longest), ANY, np.int64)
        allowed = np.zeros((starts.size, longest, len(self.relations)), np.bool_)
        for schema, (_, hops) in enumerate(self.schemas):
            for hop, (relations, type_) in enumerate(hops):
                hop_types[schema, hop] = ANY if type_ == EVERY else self._node_type(type_)
                allowed[schema, hop, self._relations_named(relations)] = True
        return starts, hop_types, allowed

    def _node_type(self, name: str) -> int:
        if name not in self.node_types:
            raise SettingsError(f"`schemas` names the node type {name!r}; `node_types` has {', '.join(self.node_types)}")
        return self.node_types.index(name)

    def _relations_named(self, names: tuple[str, ...]) -> list[int]:
        known = [name for name, _ in self.relations]
        if names == (EVERY,):
            return list(range(len(known)))
        if missing := [name for name in names if name not in known]:
            raise SettingsError(f"`schemas` names the relation {missing[0]!r}; `relations` has {', '.join(known)}")
        return [known.index(name) for name in names]


_QUESTIONS = ("next", "later")
_CHOICES = {
    "decay": tuple(DECAYS),
    "loss": ("softmax", "sigmoid"),
    "propagation": ("weight", "logit"),
    "serving": ("trained", "published"),
    "memory_question": _QUESTIONS,
}
_COUNT, _COUNT_OR_NONE, _ABOVE_ZERO, _ZERO_OR_MORE, _SHARE = (1, inf), (0, inf), (TINIEST, LARGEST), (0, LARGEST), (0, 1)
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("walk_length", "newest_of", "negatives", "negative_block_rows", "threads"), _COUNT),
    **dict.fromkeys(("validation_edges", "validate_every", "patience"), _COUNT),
    **dict.fromkeys(("seed", "walks", "passes", "memory_every"), _COUNT_OR_NONE),
    **dict.fromkeys(("decay_unit_seconds", "rate", "max_gradient_norm", "initial_scale"), _ABOVE_ZERO),
    **dict.fromkeys(("hop_weight", "bias_rate", "forget_half_life_seconds", "stay_per_doubling"), _ZERO_OR_MORE),
    **dict.fromkeys(("typed_share", "tau"), _SHARE),
    "admit_after": (1, MAX_SIGHTINGS),
    "ring_size": (1, MAX_NEIGHBOURS),
}


def _range_text(least: float, most: float) -> str:
    """Of a setting's values, for who has to change one."""
    lower = "above 0" if least == TINIEST else f"at least {least:g}"
    return lower if most >= LARGEST else f"{lower} and at most {most:g}"


PAPER: dict[str, Any] = {
    "dimensions": 128,
    "walks": 10,
    "walk_length": 3,
    "newest_of": 1,
    "hop_weight": 1.0,
    "propagation": "logit",
    "short_vector": True,
    "loss": "sigmoid",
    "interaction": True,
    "negatives": 20,
    "typed_share": 0.0,
    "negative_block_rows": 1,
    "bias_rate": 0.0,
    "rate": 0.05,
    "initial_scale": 0.1,
    "serving": "published",
    "passes": 100,
    "validate_every": 1,
}


def paper(**changes: Any) -> SupaConfig:
    """SUPA and InsLearn as published: every loss and vector of the paper, its serving vector, its workflow.

    What stays ours: steps of AdaGrad after every edge, where the authors take one step of Adam for a batch, which learns nothing in one
    pass, so a pass here is a thousand steps and is validated at once; first vectors of .1, where theirs of 1 are shrunk by the decay of all
    rows at every step; and validation on edges not learned before.
    """
    return replace(SupaConfig(), **{**PAPER, **changes})
