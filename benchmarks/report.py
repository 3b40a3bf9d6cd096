"""How a benchmark tells what it measured, where and when."""

import argparse
import datetime
import json
import os
import platform
import shlex
import sys

import psutil
from rich.console import Console
from rich.table import Table


def report(name: str, figures: dict[str, float], notes: dict[str, str] | None = None) -> None:
    """A table, then the same figures as one line of JSON."""
    table = Table(name, "")
    table.add_row("machine", machine())
    table.add_row("date", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"))
    table.add_row("command", shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
    for key, value in {**(notes or {}), **figures}.items():
        table.add_row(key, f"{value:,.1f}" if isinstance(value, float) else str(value))
    Console(highlight=False).print(table)
    print(json.dumps(figures))


def at_least_one(text: str) -> int:
    """The type of an option that counts something.

    Raises:
        argparse.ArgumentTypeError: it is no whole number above 0.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number above 0 is wanted, got {text}")
    return int(text)


def caption() -> str:
    """Command, date and machine, for a table of its own shape."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d")
    return f"{shlex.join(['python', '-m', 'benchmarks', *sys.argv[1:]])}\n{date}, {machine()}"


def machine() -> str:
    model = platform.processor() or platform.machine()
    gib = psutil.virtual_memory().total / 2**30
    return f"{os.cpu_count()} cores ({model}), {gib:.0f} GiB, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
