"""What Freshet is made of: from settings to the two stages and the cache. The hosts drive what is built here."""

from collections.abc import Callable, Sequence
from pathlib import Path

from core.composite import CompositeStage
from core.position import Upstream
from core.rows import CHUNK_ROWS
from core.stage import Learner, Stage
from features.config import ItemConfig, UserConfig
from features.covisitation import STEP_TYPES, Covisitation, CovisitationConfig
from features.declarations import STEP_FEATURES, Feature
from features.impressions import ImpressionsConfig, OpenImpressions
from features.item_stage import ItemFeatures
from features.user_stage import UserStage
from learners.cache import ParameterCache
from learners.labels import LabelLearner, LogisticConfig
from learners.recommend import CacheConfig
from learners.supa.config import POSITIVE_TYPES, SupaConfig
from learners.supa.learner import SupaLearner
from learners.tokenizer.config import TokenizerConfig
from learners.tokenizer.learner import TokenizerLearner
from streams.label_settings import label_configs
from streams.settings import Settings

FEATURES = "features"  # name of the user stage: its consumer group, checkpoints and metrics
LEARNER = "learner"
FEATURE_PARTS = ("items", "covisitation")
PARTS = (*FEATURE_PARTS, "impressions", "labels", "supa", "tokenizer")  # of the learner stage, in order
_OF_LABELS = ("impressions", "labels")  # these not where the settings name no label


def user_config(s: Settings, partition: int) -> UserConfig:
    return UserConfig(
        partition=partition,
        types=s.event_types,
        half_lives_seconds=s.half_lives_seconds,
        windows_seconds=s.windows_seconds,
        session_gap_seconds=s.session_gap_seconds,
        long_view_seconds=s.long_view_seconds,
        sequence_events=s.sequence_events,
        late_seconds=s.late_seconds,
        future_seconds=s.future_seconds,
        duplicate_horizon_seconds=s.duplicate_horizon_seconds,
        user_ttl_seconds=s.user_ttl_seconds,
        labels=label_configs(s.labels, s.event_types),
        max_open_impressions=s.max_open_impressions,
        max_items=s.max_items,
        hot_bytes=(s.store_cache_mib << 20) * 7 // 8 // s.batches_partitions,
        cache_bytes=(s.store_cache_mib << 20) // 8,
    )


def user_stage(s: Settings, upstream: Upstream, work_dir: Path) -> Stage:
    """Features of the users of one `batches` partition."""
    return UserStage(user_config(s, upstream.partition), work_dir)


def item_config(s: Settings) -> ItemConfig:
    return ItemConfig(
        capacity=s.max_items,
        types=s.event_types,
        half_lives_seconds=s.half_lives_seconds,
        windows_seconds=s.windows_seconds,
        long_view_seconds=s.long_view_seconds,
        popularity_half_life_seconds=s.popularity_half_life_seconds,
        future_seconds=s.future_seconds,
    )


def covisitation_config(s: Settings) -> CovisitationConfig:
    """Neighbours are not told: no reader asks for them yet, and telling costs more than learning."""
    return CovisitationConfig(
        user_capacity=-(-s.max_users // CHUNK_ROWS) * CHUNK_ROWS,
        item_capacity=s.max_items,
        session_gap_seconds=s.session_gap_seconds,
        types=tuple(name for name in STEP_TYPES if name in s.event_types) or s.event_types,
        future_seconds=s.future_seconds,
        publishes=False,
    )


def impressions_config(s: Settings, upstreams: int) -> ImpressionsConfig:
    """There must be a label."""
    labels, items = label_configs(s.labels, s.event_types), item_config(s)
    return ImpressionsConfig(
        opens=tuple((label.name, label.opens) for label in labels),
        user_width=len(user_config(s, 0).columns),
        item_width=items.width,
        steps=len(STEP_FEATURES),
        upstreams=upstreams,
        max_open=s.max_open_impressions,
    )


def logistic_config(s: Settings) -> LogisticConfig:
    """There must be a label."""
    labels = tuple(label.name for label in label_configs(s.labels, s.event_types))
    return LogisticConfig(labels=labels, numerics=impressions_config(s, 1).numbers, seed=s.seed)


def features(s: Settings) -> list[Feature]:
    """All that is declared, in the order in which learners get it."""
    return [*user_config(s, 0).features, *item_config(s).features, *STEP_FEATURES]


def learner_stage(s: Settings, batches_partitions: int, parts: Sequence[str] = PARTS) -> CompositeStage:
    """What is known of items and of steps between them; impressions and their labels; SUPA; the tokenizer, which reads SUPA's vectors.

    Or the first of these.
    """
    made: dict[str, Callable[[], Learner]] = {
        "items": lambda: ItemFeatures(item_config(s)),
        "covisitation": lambda: Covisitation(covisitation_config(s)),
        "impressions": lambda: OpenImpressions(impressions_config(s, batches_partitions)),
        "labels": lambda: LabelLearner(logistic_config(s)),
        "supa": lambda: SupaLearner(supa_config(s)),
        "tokenizer": lambda: TokenizerLearner(tokenizer_config(s)),
    }
    left_out = () if label_configs(s.labels, s.event_types) else _OF_LABELS
    return CompositeStage([made[name]() for name in parts if name not in left_out], batches_partitions)


def supa_config(s: Settings) -> SupaConfig:
    """Users are only ever asked for items, so negatives are of the type of the node that was met; and walks need few neighbours."""
    return SupaConfig(
        dimensions=s.dimensions,
        max_users=s.max_users,
        max_items=s.max_items,
        negative_block_rows=s.negative_block_rows,
        memory_every=s.memory_every,
        asking_types=("user",),
        typed_share=1.0,
        ring_size=16,
        seed=s.seed,
    )


def tokenizer_config(s: Settings) -> TokenizerConfig:
    return TokenizerConfig(
        behaviour_dimensions=2 * s.dimensions,
        capacity=s.max_items,
        words=s.token_words,
        interaction_types=POSITIVE_TYPES,
        refresh_seconds=s.token_refresh_seconds,
        seed=s.seed,
    )


def cache(s: Settings) -> ParameterCache:
    """An empty serving cache."""
    return ParameterCache(CacheConfig(popularity_weight=s.popularity_weight))
