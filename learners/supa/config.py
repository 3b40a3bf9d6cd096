"""Settings of the SUPA learner. Defaults were compared on UCI and Taobao, on the last 15 % of the training edges."""

from dataclasses import dataclass

import numpy as np

from core.errors import SettingsError
from learners.supa.kernel import LANES, Rule
from learners.supa.neighbours import WalkRule

POSITIVE_TYPES = ("click", "enter", "like", "follow", "comment", "share", "favourite", "cart", "purchase")
MAX_RELATIONS = 255  # rings keep a relation in one byte


@dataclass(frozen=True)
class SupaConfig:
    """What the learner takes for an edge, and how it learns from one.

    | setting | meaning |
    |---|---|
    | seed | of initial vectors, walks and negatives |
    | dimensions | d, a multiple of 8; served vectors have 2 d |
    | relations | (name, event types) each with its own context vectors; **the first is the one served**; other types are no edges |
    | max_users, max_items | rows; the longest unused make room. Memory is taken as rows are used |
    | ring_size | neighbours remembered per node |
    | walks, walk_length | per end of an edge; 0 walks: only the edge itself |
    | hop_weight | of a target met on a walk, before the decay by age |
    | decay_unit_seconds | of g = 1 / ln(e + age / unit) |
    | tau | a walk ends at an edge whose g is at or below this |
    | short_vector | adds a second vector per node that fades with g since the node's last edge |
    | negatives | per end of an edge |
    | negative_block_rows | rows of the log that share their negatives: fewer rows touched and published, and warm caches |
    | rate | of AdaGrad |
    | initial_scale | first vectors are uniform in (-scale, scale) |
    | max_gradient_norm | longer gradients of a vector are scaled down to it |

    One relation for all positive types beat one per type: Taobao test MRR .304 and .260. The short vector and a rate of .2 gain
    some overall MRR (repeated pairs) and lose on new pairs; a block of 16 costs UCI .006 of MRR against fresh negatives every row.

    Raises:
        SettingsError: a value cannot be used.
    """

    seed: int = 0
    dimensions: int = 64
    relations: tuple[tuple[str, tuple[str, ...]], ...] = (("engage", POSITIVE_TYPES),)
    max_users: int = 1 << 20
    max_items: int = 1 << 18
    ring_size: int = 16
    walks: int = 1
    walk_length: int = 1
    hop_weight: float = 0.5
    decay_unit_seconds: float = 345_600.0
    tau: float = 0.3
    short_vector: bool = False
    negatives: int = 40
    negative_block_rows: int = 16
    rate: float = 0.15
    initial_scale: float = 0.1
    max_gradient_norm: float = 10.0

    def __post_init__(self) -> None:
        if self.dimensions <= 0 or self.dimensions % LANES:
            raise SettingsError(f"`dimensions` must be a positive multiple of {LANES}, got {self.dimensions}")
        if not 1 <= len(self.relations) <= MAX_RELATIONS:
            raise SettingsError(f"`relations` must name 1 to {MAX_RELATIONS}, got {len(self.relations)}")
        types = [name for _, names in self.relations for name in names]
        if len(types) != len(set(types)):
            raise SettingsError(f"`relations` lists an event type twice: {sorted(types)}")
        self._check_least({"ring_size": 1, "walks": 0, "walk_length": 1, "negatives": 1, "negative_block_rows": 1, "seed": 0})

    @property
    def identity(self) -> dict[str, int]:
        """What shapes stored rows, by setting: changing it is a rebuild."""
        return {"dimensions": self.dimensions, "ring_size": self.ring_size, "relations": len(self.relations)}

    def _check_least(self, least: dict[str, int]) -> None:
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise SettingsError(f"`{name}` must be at least {bound}, got {getattr(self, name)}")

    def relation_of(self) -> dict[str, int]:
        """Event type -> index of its relation."""
        return {name: index for index, (_, names) in enumerate(self.relations) for name in names}

    def rule(self) -> Rule:
        """The settings as the kernel takes them."""
        walk = WalkRule(self.walks, self.walk_length, self.hop_weight, self.decay_unit_seconds * 1000.0, self.tau)
        return Rule(np.uint64(self.seed), self.negatives, self.negative_block_rows, self.rate, self.max_gradient_norm, walk)
