"""Several threads on one table without locks: faster, and no longer exact.

Source: Recht, Re, Wright, Niu, "Hogwild!: A lock-free approach to parallelizing stochastic gradient descent", NeurIPS 2011. Two threads
that meet on a row may lose a part of one's step, and the order of edges is that of the machine's mood: two runs differ, and a restart
differs from no restart. Rows are brought to life before the threads start, so that nothing but numbers is ever raced for.
"""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from core.compiled import compiled
from learners.supa.kernel import Rule, Run, Scratch, learn_run, part_of
from learners.supa.table import Table, arrive


@compiled
def arrive_all(table: Table, run: Run) -> None:
    """Every end of the run's edges is alive."""
    for i in range(run.relation.shape[0]):
        if run.relation[i] >= 0:
            arrive(table, run.ends[i, 0], run.first_ordinal + i, run.ts_ms[i])
            arrive(table, run.ends[i, 1], run.first_ordinal + i, run.ts_ms[i])


class Hogwild:
    """Threads that learn slices of a run side by side."""

    def __init__(self, threads: int) -> None:
        self._threads, self._pool = threads, ThreadPoolExecutor(threads, "supa")

    def learn(self, table: Table, run: Run, rule: Rule, scratches: list[Scratch]) -> int:
        """Learn the edges of a run; returns the updates refused. `scratches`: one for each thread."""
        arrive_all(table, run)
        bounds = np.linspace(0, run.relation.size, self._threads + 1).astype(int).tolist()
        parts = [part_of(run, start, stop) for start, stop in pairwise(bounds)]
        jobs = [
            self._pool.submit(learn_run, table, part, rule, scratch) for part, scratch in zip(parts, scratches, strict=True)
        ]  # fmt: skip
        return sum(job.result() for job in jobs)
