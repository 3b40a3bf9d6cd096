"""What Freshet is made of: from settings to the two stages and the cache. The hosts drive what is built here."""

from collections.abc import Callable, Sequence
from pathlib import Path

from core.composite import CompositeStage
from core.position import Upstream
from core.stage import Learner, Stage
from features.config import ItemConfig, UserConfig
from features.item_stage import ItemFeatures
from features.user_stage import UserStage
from learners.cache import ParameterCache
from learners.recommend import CacheConfig
from learners.supa.config import POSITIVE_TYPES, SupaConfig
from learners.supa.learner import SupaLearner
from learners.tokenizer.config import TokenizerConfig
from learners.tokenizer.learner import TokenizerLearner
from streams.settings import Settings

FEATURES = "features"  # name of the user stage: its consumer group, checkpoints and metrics
LEARNER = "learner"
PARTS = ("items", "supa", "tokenizer")  # of the learner stage, in order


def user_config(s: Settings, partition: int) -> UserConfig:
    return UserConfig(
        partition=partition,
        types=s.event_types,
        half_lives_seconds=s.user_half_lives_seconds,
        late_seconds=s.late_seconds,
        future_seconds=s.future_seconds,
        duplicate_horizon_seconds=s.duplicate_horizon_seconds,
        user_ttl_seconds=s.user_ttl_seconds,
        cache_bytes=s.store_cache_mib << 20,
    )


def user_stage(s: Settings, upstream: Upstream, work_dir: Path) -> Stage:
    """Features of the users of one `batches` partition."""
    return UserStage(user_config(s, upstream.partition), work_dir)


def item_config(s: Settings) -> ItemConfig:
    return ItemConfig(
        capacity=s.max_items,
        types=s.event_types,
        popularity_half_life_seconds=s.popularity_half_life_seconds,
        future_seconds=s.future_seconds,
    )


def learner_stage(s: Settings, batches_partitions: int, parts: Sequence[str] = PARTS) -> CompositeStage:
    """Item features, then SUPA, then the tokenizer, which reads SUPA's item vectors; or the first of these alone."""
    supa = SupaConfig(
        dimensions=s.dimensions, max_users=s.max_users, max_items=s.max_items, negative_block_rows=s.negative_block_rows, seed=s.seed
    )
    tokenizer = TokenizerConfig(
        behaviour_dimensions=2 * s.dimensions,
        capacity=s.max_items,
        words=s.token_words,
        interaction_types=POSITIVE_TYPES,
        refresh_seconds=s.token_refresh_seconds,
        seed=s.seed,
    )
    made: dict[str, Callable[[], Learner]] = {
        "items": lambda: ItemFeatures(item_config(s)),
        "supa": lambda: SupaLearner(supa),
        "tokenizer": lambda: TokenizerLearner(tokenizer),
    }
    return CompositeStage([made[name]() for name in parts], batches_partitions)


def cache(s: Settings) -> ParameterCache:
    """An empty serving cache."""
    return ParameterCache(CacheConfig(popularity_weight=s.popularity_weight))
