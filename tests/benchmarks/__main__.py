"""`python -m tests.benchmarks [--check] [NAME…]`."""

from __future__ import annotations

import argparse
import platform
import sys

from tests.benchmarks import (
    budget,
    calls,
    gates,
    instructions,
    memory,
    probes,
    reload,
    rewriting,
    sampler,
    service,
    startup,
    tracing,
)
from tests.benchmarks.measure import Figure

_ALL = {
    "budget": budget,
    "calls": calls,
    "gates": gates,
    "instructions": instructions,
    "memory": memory,
    "probes": probes,
    "reload": reload,
    "rewriting": rewriting,
    "sampler": sampler,
    "service": service,
    "startup": startup,
    "tracing": tracing,
}


def main() -> int:
    """Run the benchmarks and print their table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_ALL)}; all by default")
    parser.add_argument("--check", action="store_true", help="exit 1 if a limit is broken")
    given = parser.parse_args()
    print(f"Python {platform.python_version()}")
    found: list[Figure] = []
    for name in given.names or _ALL:
        for figure in _ALL[name].figures():
            print(figure.line(), flush=True)
            found.append(figure)
    broken = [each for each in found if not each.holds]
    if given.check and broken:
        print(f"{len(broken)} of {len(found)} limits broken", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
