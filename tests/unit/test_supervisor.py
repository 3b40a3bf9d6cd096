"""Children of the supervisor: restarted after a pause that grows, told of, and given up on."""

import sys
from pathlib import Path

import pytest

from core.errors import FreshetError
from streams import supervisor as module
from streams.processes import PROCESSES
from streams.settings import load
from streams.supervisor import COMMANDS, LONGEST_DELAY_SECONDS, NEEDS_HELP, SETTLED_SECONDS, Child, Supervisor


class Clock:
    """Stands for the module `time`; moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def child(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Child:
    """A real process that says a line and fails."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho about to fail\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return Child("ingest", load(data_dir=tmp_path), tmp_path)


def _ended(child: Child) -> str | None:
    assert child.process is not None
    child.process.wait()
    return child.look()


def _runs(child: Child) -> bool:
    return child.process is not None


def test_one_that_needs_help_is_not_started_again(child: Child, clock: Clock, tmp_path: Path) -> None:
    """Its state was made by other settings, say: each start would end the same way."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho freshet: set it back\nexit {NEEDS_HELP}\n")
    supervisor = Supervisor(load(data_dir=tmp_path), {})
    supervisor.children["ingest"] = child
    supervisor.check_help()
    child.start()
    line = _ended(child)
    assert line is not None
    assert "set it back" in line
    clock.now += 1_000
    assert child.look() is None
    assert not _runs(child)
    with pytest.raises(FreshetError, match=r"ingest cannot go on by itself\. set it back"):
        supervisor.check()


def test_a_death_is_told_and_the_pause_doubles(child: Child, clock: Clock) -> None:
    child.start()
    pauses = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    for count, pause in enumerate(pauses, 1):
        line = _ended(child)
        assert line is not None
        assert f"ingest ended with status 3, starts again in {pause:g} s" in line
        assert "about to fail" in line
        clock.now += pause - 0.01
        assert child.look() is None
        assert not _runs(child)
        clock.now += 0.02
        child.look()
        assert _runs(child)
        assert child.restarts == count
    assert pauses[-1] == LONGEST_DELAY_SECONDS
    _ended(child)


def test_one_that_lived_long_starts_again_soon(child: Child, clock: Clock) -> None:
    child.start()
    for _ in range(3):
        _ended(child)
        clock.now += LONGEST_DELAY_SECONDS
        child.look()
    clock.now += SETTLED_SECONDS + 1
    line = _ended(child)
    assert line is not None
    assert "starts again in 0.5 s" in line


def test_one_that_keeps_dying_is_given_up_on(child: Child, tmp_path: Path) -> None:
    watching = Supervisor(load(data_dir=tmp_path), {})
    watching.children["ingest"] = child
    child.restarts = 2
    watching.check()
    child.restarts = 3
    child.start()
    _ended(child)
    with pytest.raises(FreshetError, match=r"ingest died 3 times(.|\n)*about to fail"):
        watching.check()


def test_every_process_has_a_command() -> None:
    assert COMMANDS.keys() == PROCESSES.keys()
