"""The compose file as data: variables filled in, anchors merged, services in the order in which they start."""

import json
import re
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yml"
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
Service = dict[str, Any]


def composed(path: Path = COMPOSE, **variables: str) -> dict[str, Any]:
    """A compose file with these variables set.

    Raises:
        KeyError: one that has no default is not among them.
    """

    def filled(found: "re.Match[str]") -> str:
        name, operator, default = found.groups()
        return variables.get(name) or default if operator == "-" else variables[name]

    loaded: dict[str, Any] = yaml.safe_load(VARIABLE.sub(filled, path.read_text()))
    return loaded


def in_order(services: dict[str, Service]) -> list[str]:
    """Each after those that it depends on."""
    return list(TopologicalSorter({name: list(service.get("depends_on", {})) for name, service in services.items()}).static_order())


def ours(services: dict[str, Service]) -> dict[str, Service]:
    """The services that run Freshet's own image."""
    return {name: service for name, service in services.items() if "build" in service}


def runs_on(service: Service) -> bool:
    """Whether it is meant to keep running."""
    return bool(service["restart"] != "no")


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) of the Dockerfile, in order."""
    lines = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text()).splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(instruction, rest) for instruction, rest in words]


def entrypoint() -> list[str]:
    """What a service's command is appended to."""
    [found] = [rest for instruction, rest in dockerfile() if instruction == "ENTRYPOINT"]
    words: list[str] = json.loads(found)
    return words
