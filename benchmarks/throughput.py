"""Placeholder until the stages are measured below."""

from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None: ...
