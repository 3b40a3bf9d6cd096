"""What a run that may be stopped, or killed, at any time leaves in a directory, so that the same command goes on where it stood."""

import fcntl
import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from core.errors import SettingsError
from core.snapshot import Snapshot
from monitoring.metrics import version
from streams.checkpoints import Checkpoints, sha256
from streams.logs.mapping import Mapping
from streams.logs.parts import Place
from streams.logs.reader import files_of
from streams.settings import Settings

KEPT = 2  # checkpoints: a damaged one is passed over
SHARE = 0.05  # of the time at most that checkpoints take
HASH_DIGITS = 16
_RUN, _STATE, _WORK, _CHECKPOINTS = "run.json", "state", "work", "checkpoints"

# Settings that say where and how a run happens, not what comes of it.
_ELSEWHERE = {
    "bootstrap_servers", "security_protocol", "sasl_mechanism", "sasl_username", "sasl_password", "ssl_cafile", "replication_factor",
    "data_dir", "http_host", "http_port", "metrics_port", "broker_port", "worker_instance", "session_timeout_seconds",
    "store_cache_mib", "checkpoint_seconds", "checkpoints_kept", "full_checkpoint_every",
}  # fmt: skip


class Held(Protocol):
    """What is kept: everything that a run holds. A stage, its driver and the parts of the replay host are such."""

    def snapshot(self, into: Snapshot) -> None: ...

    def restore(self, directory: Path) -> None: ...


class Kept:
    """The checkpoints of one run over a log.

    A checkpoint says which run it is of and the place where the log goes on; the rest is what `held.snapshot` writes.
    """

    def __init__(self, directory: Path, run: dict[str, Any], seconds: float) -> None:
        """`directory`: see `kept`. `run`: all that the result depends on, by names that people know. `seconds`: between checkpoints."""
        self.directory, self.work_dir = directory, directory / _WORK
        self._run: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(run))
        self._checkpoints = Checkpoints(directory / _CHECKPOINTS, KEPT, full_every=20)
        self._seconds, self._due_at = seconds, time.monotonic() + seconds
        self._previous: Path | None = None
        self._events = -1  # taken before the last checkpoint

    def restore(self, held: Held | None = None) -> Place | None:
        """Take up the newest checkpoint; the place where the log goes on. None where there is no checkpoint yet.

        Raises:
            SettingsError: it is of another run; the message says what differs.
            SnapshotError: there are checkpoints, but none is whole.
        """
        path = self._checkpoints.newest()
        if path is None:
            return None
        stored = msgspec.json.decode((path / _RUN).read_bytes())
        self._check(stored["run"])
        if held is not None:
            held.restore(path / _STATE)
        self._previous, place = path, Place(*stored["place"])
        self._events = place.events
        return place

    def _check(self, stored: dict[str, Any]) -> None:
        differing = [name for name in {**stored, **self._run} if stored.get(name) != self._run.get(name)]
        if differing:
            told = "; ".join(f"{name} was {stored.get(name)}, is {self._run.get(name)}" for name in differing)
            raise SettingsError(f"--state {self.directory} is of another run: {told}. Give the same again, or another directory")

    def due(self) -> bool:
        """Whether it is time for a checkpoint: after `seconds`, or later where these would take more than their share."""
        return time.monotonic() >= self._due_at

    def save(self, place: Place, held: Held | None = None) -> None:
        """A checkpoint, on disk when this returns; none where there is one after as many events, for it holds the same."""
        if place.events == self._events:
            return
        started = time.monotonic()

        def write(into: Snapshot) -> None:
            into.write(_RUN, msgspec.json.encode({"run": self._run, "place": place}))
            if held is not None:
                held.snapshot(into.within(_STATE))

        pending = self._checkpoints.take(place.events, write, self._previous)
        self._previous = self._checkpoints.finish(pending, self._previous)
        now = time.monotonic()
        self._events, self._due_at = place.events, now + max(self._seconds, (now - started) / SHARE)


@contextmanager
def kept(directory: Path, run: dict[str, Any], seconds: float) -> Iterator[Kept]:
    """The checkpoints in a directory, made where it is missing, which nobody else has meanwhile.

    Raises:
        SettingsError: another process has it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SettingsError(f"another run has --state {directory}: stop it, or give another directory") from error
        yield Kept(directory, run, seconds)


def shaping(s: Settings) -> dict[str, Any]:
    """The settings that a result depends on, and the version of the code: part of a run."""
    return {"version": version(), **s.model_dump(mode="json", exclude=_ELSEWHERE)}


def told_log(log: Path | None, mapping: Mapping, catalogue: Path | None) -> dict[str, Any]:
    """What is read, as a part of a run: by contents, wherever it lies."""
    rules = hashlib.sha256(msgspec.json.encode(mapping)).hexdigest()[:HASH_DIGITS]
    return {"log": _contents(log), "--mapping": f"{mapping.name} {rules}", "--catalogue": _contents(catalogue)}


def _contents(path: Path | None) -> str:
    return "bundled" if path is None else ", ".join(f"{file.name} {sha256(file)[:HASH_DIGITS]}" for file in files_of(path))
