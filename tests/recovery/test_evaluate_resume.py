"""`freshet evaluate`: from a log to the report, and killed on the way: the numbers are those of an uninterrupted run."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from streams import bundled
from tests import live

EVENTS = 6_000
SMALL = {"FRESHET_MAX_USERS": "8192", "FRESHET_MAX_ITEMS": "8192", "FRESHET_DIMENSIONS": "16", "FRESHET_CHECKPOINT_SECONDS": "0.1"}
BASELINES = ("--baseline=popular-30m", "--baseline=covisitation", "--baseline=counters")


def start(options: Sequence[str], log: Path) -> "subprocess.Popen[bytes]":
    until = bundled.events()["ts_ms"][EVENTS]
    command = [sys.executable, "-m", "freshet", "evaluate", "--to", str(until), "--sample", "0.2", "--batch", "50", *BASELINES, *options]
    with log.open("wb") as told:
        return subprocess.Popen(command, env={**os.environ, **SMALL}, stdout=told, stderr=subprocess.STDOUT)


def finish(process: "subprocess.Popen[bytes]", log: Path) -> None:
    assert process.wait(timeout=120) == 0, log.read_text()


def numbers(path: Path) -> dict[str, Any]:
    """All that the result tells, without what the clock says."""
    told: dict[str, Any] = json.loads(path.read_text())
    return {**told, "run": {name: value for name, value in told["run"].items() if name not in ("seconds", "events_per_second")}}


def checkpoints(state: Path) -> int:
    directory = state / "checkpoints"
    return max((int(path.name[:20]) for path in directory.iterdir() if path.name[:20].isdigit()), default=0) if directory.exists() else 0


def test_an_evaluation_that_is_killed_tells_what_one_tells_that_is_not(tmp_path: Path) -> None:
    log, state, chance = tmp_path / "log", tmp_path / "state", random.Random(20_261_126)
    whole = start(["--json", str(tmp_path / "whole.json"), "--html", str(tmp_path / "whole.html"), "--save", str(tmp_path / "whole")], log)
    finish(whole, log)
    expected = numbers(tmp_path / "whole.json")
    assert expected["log"]["events"] == EVENTS
    assert expected["lists"]["served"]["all"]["n"] > 500
    assert expected["labels"]["click"]["counters"]["all"]["n"] > 500
    assert "<svg" in (tmp_path / "whole.html").read_text()
    options = ["--state", str(state), "--json", str(tmp_path / "resumed.json"), "--save", str(tmp_path / "resumed")]
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
        process, before = start(options, log), checkpoints(state)
        live.wait(lambda before=before: checkpoints(state) > before, "a checkpoint")
        if number == signal.SIGKILL:
            live.wait(lambda: chance.random() < 0.5, "a random moment")
        process.send_signal(number)
        assert process.wait(timeout=20) == (-signal.SIGKILL if number == signal.SIGKILL else 130), log.read_text()
    assert 0 < checkpoints(state) < EVENTS
    finish(start(options, log), log)
    assert numbers(tmp_path / "resumed.json") == expected
    compared = start(["--compare", str(tmp_path / "whole"), str(tmp_path / "resumed"), "--json", str(tmp_path / "compared.json")], log)
    finish(compared, log)
    change = json.loads((tmp_path / "compared.json").read_text())["lists"]["served"]["all"]["hr@20"]
    assert (change["difference"], change["ci95"]) == (0.0, [0.0, 0.0])
    assert change["a"] == change["b"] == expected["lists"]["served"]["all"]["hr@20"]
