"""One decayed counter per user in quixstreams: `python quixstreams_counter.py EVENTS USERS BROKER`. Prints events per second."""

import logging
import random
import sys
import tempfile
import time

from quixstreams import Application

HALF_LIFE_SECONDS = 3_600.0
WARM = 1_000  # events before the clock starts: the first ones wait for the consumer group


def count(row, state):
    value, last = state.get("value", 0.0), state.get("last", row["ts"])
    value = value * 2.0 ** (-(row["ts"] - last) / HALF_LIFE_SECONDS) + 1.0
    state.set("value", value)
    state.set("last", row["ts"])
    return value


def main():
    events, users, broker = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    logging.disable(logging.CRITICAL)
    draw, seen = random.Random(1), []
    with tempfile.TemporaryDirectory() as directory:
        app = Application(broker_address=broker, consumer_group="peer", auto_offset_reset="earliest", state_dir=directory, loglevel=None)
        topic = app.topic("peer-events", value_deserializer="json")
        with app.get_producer() as producer:
            for at in range(events):
                message = topic.serialize(key=f"user-{draw.randrange(users)}", value={"ts": at / 1000})
                producer.produce(topic=topic.name, key=message.key, value=message.value)
        rows = app.dataframe(topic).apply(count, stateful=True)
        rows.update(lambda value: seen.append(time.perf_counter()))
        app.run(count=events, timeout=60.0)
    assert len(seen) == events, len(seen)
    print((events - WARM) / (seen[-1] - seen[WARM]))


main()
