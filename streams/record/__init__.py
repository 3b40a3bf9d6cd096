"""Recordings: live topics to Parquet, whole and in order, and back."""

from streams.record.files import Position, RecordedPartition, partitions
from streams.record.recorder import Limits, Progress, record, topic_named
from streams.record.stages import recorded, replay_recording

__all__ = [
    "Limits",
    "Position",
    "Progress",
    "RecordedPartition",
    "partitions",
    "record",
    "recorded",
    "replay_recording",
    "topic_named",
]
