"""`python -m monitoring.dashboards` writes docker/grafana/dashboards/*.json."""

import json

from monitoring.dashboards import DASHBOARDS, DIRECTORY


def texts() -> dict[str, str]:
    """File name -> what it holds."""
    return {f"{name}.json": json.dumps(build(), indent=2, sort_keys=True) + "\n" for name, build in DASHBOARDS.items()}


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in texts().items():
        (DIRECTORY / name).write_text(text)


if __name__ == "__main__":
    main()
