"""A made-up world whose truth is known: it yields logs, and judges lists by it."""

from evaluation.world.catalogue import entries
from evaluation.world.config import WorldConfig, load_world, make_world, read_settings, save_world
from evaluation.world.simulation import EVENTS, LABELS, frames, label_frames
from evaluation.world.truth import TruthJudge
from evaluation.world.world import World

__all__ = [
    "EVENTS", "LABELS", "TruthJudge", "World", "WorldConfig", "entries", "frames", "label_frames", "load_world", "make_world",
    "read_settings", "save_world",
]  # fmt: skip
