"""The whole shop in one command: serve on a free port, send load at it, print what came back.

python examples/shop/main.py --requests 300
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from shop.app import create_app
from shop.db import DatabaseError
from shop.load import Crowd, add_options, plan, summary
from shop.serve import database_at, serving


def load_here(url: str, options: argparse.Namespace) -> int:
    """Send the load from threads of this process; return the exit status."""
    result = Crowd(url, plan(options.requests, options.plan), options.workers, options.seconds).run()
    print(summary(result))
    return 0 if result.ok else 1


def load_apart(url: str, options: argparse.Namespace) -> int:
    """Send the load from a process of its own; return its exit status."""
    command = [sys.executable, "-m", "shop.load", "--url", url]
    for name in ("requests", "workers", "seconds", "plan"):
        command += [f"--{name}", str(getattr(options, name))]
    return subprocess.run(command, cwd=Path(__file__).parent, check=False).returncode


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(description="Serve the shop, send load at it, print what came back.")
    add_options(made)
    made.add_argument(
        "--database", type=Path, metavar="FILE", help="made if missing (default: a temporary one)"
    )
    made.add_argument("--seed", type=int, default=1, help="which made-up past (default: 1)")
    made.add_argument("--apart", action="store_true", help="send the load from a second process")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, 1 when a request failed, 2 for a database that can't be used."""
    options = parser().parse_args(arguments)
    send = load_apart if options.apart else load_here
    try:
        with (
            database_at(options.database, options.seed) as database,
            serving(create_app(database), database) as url,
        ):
            return send(url, options)
    except (DatabaseError, OSError) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
