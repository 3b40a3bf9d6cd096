"""The replay host: the same stages over a logged stream, in one process and without a broker; and a log sent through Kafka.

`LocalPipeline` cuts its own logs from messages; `replay_topic` drives one stage over a retained topic, for comparison.
"""

from streams.replay.examples import LOCAL, ToExamples
from streams.replay.local import LocalPipeline, replay
from streams.replay.retained import records, replay_topic

__all__ = ["LOCAL", "LocalPipeline", "ToExamples", "records", "replay", "replay_topic"]
