"""The contract as JSON Schemas: those that ship with the package, with what the settings change in them."""

import json
from importlib.resources import files
from typing import Any

from core.errors import SettingsError
from streams.settings import Settings

NAMES = ("event", "item")


def schema(name: str, s: Settings) -> dict[str, Any]:
    """The JSON Schema of an event or a catalogue item, under these settings.

    Raises:
        SettingsError: there is no such schema.
    """
    if name not in NAMES:
        raise SettingsError(f"there is no schema {name!r}: give one of {', '.join(NAMES)}")
    told: dict[str, Any] = json.loads((files("streams") / "schemas" / f"{name}.schema.json").read_text())
    if name == "event":
        told["properties"]["type"] = {"description": "What happened: the setting `event_types`.", "enum": list(s.event_types)}
    ids = told["$defs"]["id"] if name == "event" else told["properties"]["item_id"]
    ids |= {"description": ids["description"].replace("256", str(s.max_id_bytes)), "maxLength": s.max_id_bytes}
    return told
