"""`freshet features`: what is known of users, items, authors and categories."""

import typer

from features.documentation import tables
from streams import pipeline
from streams.cli.common import settings


def features() -> None:
    """Print the features that the learners get, as they follow from the settings, in Markdown.

    Example: freshet features > features.md
    """
    s = settings()
    typer.echo("\n".join(tables(pipeline.features(s))))
