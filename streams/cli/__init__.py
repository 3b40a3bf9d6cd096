"""The command line: `freshet COMMAND --help`. Every command reads the same settings (freshet.toml, FRESHET_*)."""

import logging
import sys
from typing import TextIO

import typer
from kafka.errors import KafkaError
from rich.logging import RichHandler

from core.errors import FreshetError
from monitoring.metrics import version
from streams.cli import demo, dlt, doctor, evaluate, features, produce, record, replay, run, schema, simulate
from streams.cli.common import complain

app = typer.Typer(
    name="freshet",
    help="Freshet learns from live user events and serves what it learned within a second.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command()(demo.demo)
app.command()(run.up)
app.command()(run.broker)
app.command()(run.ingest)
app.command()(run.worker)
app.command()(run.learn)
app.command()(run.serve)
app.command()(run.page)
app.command()(produce.produce)
app.command()(schema.schema)
app.command()(features.features)
app.command()(replay.replay)
app.command()(evaluate.evaluate)
app.command()(simulate.simulate)
app.command()(record.record)
app.add_typer(dlt.app, name="dlt")
app.command()(doctor.doctor)


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to what standard error is at that moment."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, stream: TextIO) -> None:
        """Not kept."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"freshet {version()}")
        raise typer.Exit


@app.callback()
def root(
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what the clients say too."),
    show_version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version and exit."),
) -> None:
    """Freshet learns from live user events and serves what it learned within a second."""
    if sys.stderr.isatty():
        logging.basicConfig(
            level=logging.INFO, format="%(name)s: %(message)s", datefmt="%X", handlers=[RichHandler(show_path=False)], force=True
        )
    else:  # a file: one line each, with the date
        handlers = [_Stderr()]
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", handlers=handlers, force=True)
    if not verbose:
        for name in ("aiokafka", "faust", "mode", "httpx", "jgo"):
            logging.getLogger(name).setLevel(logging.ERROR)
        logging.getLogger("kafka").setLevel(logging.CRITICAL)  # each failed attempt to connect; ours says it once


def main() -> None:
    """Run the command line; an error of ours is one sentence and status 1, Ctrl-C is status 130."""
    try:
        app()
    except FreshetError as error:
        complain(str(error))
        sys.exit(1)
    except KafkaError as error:
        complain(f"Kafka failed: {error}")
        sys.exit(1)
    except OSError as error:  # a disk that is full, a path that cannot be written
        logging.getLogger(__name__).debug("failed", exc_info=True)
        complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
