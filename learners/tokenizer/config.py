"""Settings of the dynamic tokenizer."""

from dataclasses import dataclass

from core.errors import SettingsError
from core.schemas import EVENT_TYPES

_KEY_BITS = 62  # a full code is one int64 in the table of taken codes
_MAX_WORDS = 1 << 16  # tokens are uint16


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """What the tokenizer is made of. The defaults fit logs with a few thousand items active a day.

    `words` asks for items: with N active ones, N / 24 per level is good and N / 8 the most, or the words memorise them.
    """

    behaviour_dimensions: int  # width of `item_vector`
    content_dimensions: int = 64
    capacity: int = 131_072  # items held; the longest unused go first
    levels: int = 3
    words: int = 64  # per level
    min_items: int | None = None  # with a vector before the first codebook, and active before a refresh; None: 8 a word
    sample_items: int = 8_192  # at most behind the first codebook: bounds its one pause
    iterations: int = 10  # of k-means behind the first codebook
    beam: int = 8
    hysteresis: float = 0.15  # codes stay unless the new distortion is lower by this share
    moved: float = 0.1  # relative distance from the vector last encoded below which an event encodes nothing
    gate_interactions: float = 5.0  # n / (n + this) weighs behaviour against content
    interaction_types: tuple[str, ...] = EVENT_TYPES[1:]  # all but impressions
    refresh_seconds: int = 900  # event time
    active_seconds: int = 86_400  # event time
    slice_items: int = 256  # encoded per slice of a refresh; 8 times as many are summed
    slice_seconds: float = 1.0  # event time since the last segment that pays for one more slice; a slow log would lag for hours
    max_slices: int = 8  # per segment
    kept_codebooks: int = 32  # items whose codes were chosen with an older one are encoded anew
    seed: int = 0

    def __post_init__(self) -> None:
        if self.words > _MAX_WORDS or self.levels * (self.words - 1).bit_length() > _KEY_BITS:
            raise SettingsError(f"{self.levels} levels of {self.words} words: lower `words` or `levels`")
        if self.least_items < self.words:
            raise SettingsError(f"min_items ({self.min_items}) must be at least words ({self.words}), better 8 times as many")
        if self.sample_items < self.words:
            raise SettingsError(f"sample_items ({self.sample_items}) must be at least words ({self.words})")
        if self.behaviour_dimensions < 1 or self.content_dimensions < 1:
            raise SettingsError("behaviour_dimensions and content_dimensions must be at least 1")
        if not 0 <= self.hysteresis < 1:
            raise SettingsError(f"hysteresis must be in [0, 1), got {self.hysteresis}")

    @property
    def least_items(self) -> int:
        return 8 * self.words if self.min_items is None else self.min_items

    @property
    def dimensions(self) -> int:
        return self.content_dimensions + self.behaviour_dimensions

    @property
    def identity(self) -> dict[str, int]:
        """What shapes stored arrays, by setting: changing it is a rebuild."""
        names = ("capacity", "levels", "words", "content_dimensions", "behaviour_dimensions", "kept_codebooks")
        return {name: getattr(self, name) for name in names}
