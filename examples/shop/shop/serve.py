"""The server: `python -m shop.serve --port 0`."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from shop.app import create_app
from shop.background import StockKeeper
from shop.db import Database, DatabaseError
from shop.seed import prepare

HOST = "127.0.0.1"


class QuietHandler(WSGIRequestHandler):
    """Keeps connections open, answers at once, and writes no line a request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body, sent apart, cost 40 ms of delayed acknowledgement

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextlib.contextmanager
def database_at(path: Path | None, seed: int) -> Iterator[Database]:
    """Open a filled database, at a given path or in a folder that is removed afterwards.

    Raises:
        DatabaseError: the file is somebody else's, or from another seed.
    """
    with contextlib.ExitStack() as stack:
        if path is None:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shop-"))) / "shop.db"
        database = stack.enter_context(Database(path))
        prepare(database, seed)
        yield database


@contextlib.contextmanager
def serving(app: Flask, database: Database, port: int = 0) -> Iterator[str]:
    """Serve in a thread of its own, with the stock keeper; gives the address (port 0: a free port)."""
    server = make_server(HOST, port, app, threaded=True, request_handler=QuietHandler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="server", daemon=True)
    with StockKeeper(database):
        thread.start()
        try:
            yield address(server)
        finally:
            server.shutdown()
            thread.join(timeout=10)
            server.server_close()


def address(server: BaseWSGIServer) -> str:
    """Return where a server listens, as `http://127.0.0.1:8000`."""
    return f"http://{HOST}:{server.server_port}"


def parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    made = argparse.ArgumentParser(prog="shop.serve", description="Serve the shop on this machine only.")
    made.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    made.add_argument(
        "--database", type=Path, metavar="FILE", help="made if missing (default: a temporary one)"
    )
    made.add_argument("--seed", type=int, default=1, help="which made-up past (default: 1)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return the exit status."""
    options = parser().parse_args(arguments)
    stopping = threading.Event()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        with (
            database_at(options.database, options.seed) as database,
            serving(create_app(database), database, options.port) as url,
        ):
            print(f"the shop is open at {url} (Ctrl-C closes it)", flush=True)
            stopping.wait()
    except (DatabaseError, OSError, OverflowError) as error:
        print(f"shop.serve: {error}", file=sys.stderr)
        return 2
    print("the shop is closed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
