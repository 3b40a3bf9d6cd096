"""One decayed counter per user in bytewax, recoverable: `python bytewax_counter.py EVENTS USERS`. Prints events per second."""

import datetime
import random
import sys
import tempfile
import time
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.testing import TestingSink, TestingSource, run_main

HALF_LIFE_SECONDS = 3_600.0
EPOCH = datetime.timedelta(seconds=1)


def count(state, ts):
    value, last = state or (0.0, ts)
    value = value * 2.0 ** (-(ts - last) / HALF_LIFE_SECONDS) + 1.0
    return (value, ts), value


def main():
    events, users = map(int, sys.argv[1:])
    draw = random.Random(1)
    rows = [(f"user-{draw.randrange(users)}", at / 1000) for at in range(events)]
    flow, out = Dataflow("counter"), []
    told = op.stateful_map("count", op.input("in", flow, TestingSource(rows)), count)
    op.output("out", told, TestingSink(out))
    with tempfile.TemporaryDirectory() as directory:
        init_db_dir(Path(directory), 1)
        started = time.perf_counter()
        run_main(flow, epoch_interval=EPOCH, recovery_config=RecoveryConfig(directory))
    assert len(out) == events
    print(events / (time.perf_counter() - started))


main()
