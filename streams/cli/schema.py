"""`freshet schema`: the contract with producers, for machines."""

import json
from typing import Annotated

import typer

from streams.cli.common import settings
from streams.contract_schemas import schema as schema_of


def schema(name: Annotated[str, typer.Argument(help="event or item.")] = "event") -> None:
    """Print the JSON Schema of what producers send, with the settings `event_types` and `max_id_bytes` in it.

    Example: freshet schema event > event.schema.json
    """
    typer.echo(json.dumps(schema_of(name, settings()), indent=2, ensure_ascii=False))
