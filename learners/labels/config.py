"""Settings of the learner of late labels."""

import math
from dataclasses import dataclass

from core.errors import SettingsError
from learners.labels.kernel import Rule


@dataclass(frozen=True)
class LogisticConfig:
    """What the learner is told of an example, and how fast it learns.

    | setting | meaning |
    |---|---|
    | labels | names of the labels, a model each |
    | buckets | of hashed categorical features, per label; a power of two, 48 bytes each |
    | numerics | d, numbers told of each example |
    | rate | of AdaGrad, main head |
    | helper_rate | of AdaGrad, the heads of p_dp and p_rn |
    | initial_squares | what AdaGrad's sums of squared gradients start from |
    | half_life_rows | of the running means of loss and rates |
    | seed | which values share a bucket |

    Raises:
        SettingsError: a value cannot be used.
    """

    labels: tuple[str, ...] = ("click",)
    buckets: int = 1 << 18
    numerics: int = 0
    rate: float = 0.1
    helper_rate: float = 0.1
    initial_squares: float = 0.1
    half_life_rows: float = 20_000.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.labels or len(set(self.labels)) != len(self.labels):
            raise SettingsError(f"`labels` must name at least one label, none twice, got {list(self.labels)}")
        if self.buckets < 1 or self.buckets & (self.buckets - 1):
            raise SettingsError(f"`buckets` must be a power of two, got {self.buckets}")
        for name in ("numerics", "seed"):
            if getattr(self, name) < 0:
                raise SettingsError(f"`{name}` must be at least 0, got {getattr(self, name)}")
        for name in ("rate", "helper_rate", "initial_squares", "half_life_rows"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise SettingsError(f"`{name}` must be above 0 and finite, got {getattr(self, name)}")

    @property
    def identity(self) -> dict[str, object]:
        """What shapes stored rows, by setting: changing it is a rebuild."""
        return {"labels": list(self.labels), "buckets": self.buckets, "numerics": self.numerics, "seed": self.seed}

    @property
    def rows(self) -> int:
        """Coordinates of all labels: buckets, numbers and a bias each."""
        return len(self.labels) * (self.buckets + self.numerics + 1)

    def rule(self) -> Rule:
        """The settings as the kernel takes them."""
        keep = math.exp2(-1.0 / self.half_life_rows)
        return Rule(len(self.labels), self.buckets, self.numerics, self.rate, self.helper_rate, self.initial_squares, keep)
