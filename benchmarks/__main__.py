"""`python -m benchmarks NAME [options]`: a table with machine, date and command, and one line of JSON at the end."""

import sys

from benchmarks import features, freshness, labels, replay, results, scrape, simulate, supa, supa_parts, supa_scale, temporal, throughput
from core.errors import SettingsError

NAMES = {
    "throughput": throughput.main,
    "freshness": freshness.main,
    "replay": replay.main,
    "features": features.main,
    "results": results.main,
    "simulate": simulate.main,
    "scrape": scrape.main,
    "labels": labels.main,
    "supa": supa.main,
    "supa-parts": supa_parts.main,
    "supa-scale": supa_scale.main,
    "temporal": temporal.main,
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        print(f"usage: python -m benchmarks {{{'|'.join(NAMES)}}} [--help]", file=sys.stderr)
        return 2
    try:
        NAMES[sys.argv[1]](sys.argv[2:])
    except SettingsError as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{sys.argv[1]}: interrupted, nothing was told", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
