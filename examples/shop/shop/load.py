"""The load generator: `python -m shop.load --url http://127.0.0.1:8000 --requests 300`.

Standard library only. It asks for pages that do not depend on time or order, so one seed gives one digest,
however many workers it has. It stays on this machine and stops after a number of requests and of seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import itertools
import json
import random
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote, urlsplit

Number = TypeVar("Number", int, float)

LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
MAX_REQUESTS = 1_000_000
MAX_WORKERS = 64
MAX_SECONDS = 3_600.0
ERRORS_SHOWN = 5
TIMEOUT_S = 30.0

_WEIGHTS = {
    "product": 32, "search": 20, "category": 12, "home": 8, "basket": 14, "place": 7, "order": 3, "offers": 2,
    "report": 1, "csv": 1,
}  # fmt: skip
_RARE = ("report", "csv", "offers", "order", "place")
_CATEGORIES = ("bags", "books", "garden", "kitchen", "lamps", "paper", "shoes", "tools", "toys")
_QUERIES = (
    "felt box",
    "light tray",
    "small wool",
    "glass",
    "sturdy leather",
    "hand made",
    "fits nothing",
    "",
)


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the plan; `expected` is the status that is right."""

    index: int
    kind: str
    method: str
    path: str
    body: bytes | None = None
    expected: int = 200


@dataclass(slots=True)
class Result:
    """What came of a plan; times in seconds, by kind of page."""

    seconds: float = 0.0
    digests: dict[int, str] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    unsent: int = 0

    @property
    def ok(self) -> bool:
        """Whether every request was sent and answered as it should be."""
        return not self.errors and not self.unsent

    @property
    def digest(self) -> str:
        """One hash over all answers in the order of the plan."""
        together = "".join(self.digests[index] for index in sorted(self.digests))
        return hashlib.sha256(together.encode()).hexdigest()[:16]


def plan(count: int, seed: int) -> list[Request]:
    """Return what a mixed crowd of customers would ask for; the same for the same arguments."""
    chance = random.Random(seed)
    kinds = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count)
    # the rare pages are asked for in small plans too
    for position, kind in zip(range(0, count, 10), _RARE, strict=False):
        kinds[position] = kind
    return [_request(index, kind, chance, seed) for index, kind in enumerate(kinds)]


def _request(index: int, kind: str, chance: random.Random, seed: int) -> Request:
    sku = f"P{chance.randrange(180):04}"
    match kind:
        case "product":
            if chance.random() < 0.02:
                return Request(index, kind, "GET", "/product/none", expected=404)
            return Request(index, kind, "GET", f"/product/{sku}")
        case "search":
            return Request(index, kind, "GET", f"/search?q={quote(chance.choice(_QUERIES))}")
        case "category":
            return Request(index, kind, "GET", f"/category/{chance.choice(_CATEGORIES)}")
        case "basket":
            return Request(index, kind, "POST", "/basket", _items(chance))
        case "place":
            body = _items(chance, number=f"L-{seed}-{index}", customer=f"visitor {index % 20}")
            return Request(index, kind, "POST", "/orders", body, 201)
        case "order":
            return Request(index, kind, "GET", f"/orders/S-{chance.randrange(2_500):05}")
        case "offers":
            return Request(index, kind, "GET", f"/product/{sku}/offers")
        case "report":
            return Request(index, kind, "GET", "/reports/sales")
        case "csv":
            return Request(index, kind, "GET", "/reports/sales.csv")
    return Request(index, "home", "GET", "/")


def _items(chance: random.Random, **more: str) -> bytes:
    count = chance.randint(1, 8)
    items = [[f"P{chance.randrange(180):04}", chance.choice((1, 1, 2, 3, 7, 12))] for _ in range(count)]
    return json.dumps({"items": items, **more}).encode()


class Crowd:
    """Workers that share one plan; each keeps one connection."""

    def __init__(self, url: str, requests: Sequence[Request], workers: int, seconds: float) -> None:
        self._url = urlsplit(url)
        self._requests = requests
        self._workers = workers
        self._seconds = seconds
        self._lock = threading.Lock()
        self._next: Iterator[Request] = iter(requests)
        self._result = Result()

    def run(self) -> Result:
        """Send everything; return when all is answered or the time is up."""
        started = time.monotonic()
        deadline = started + self._seconds
        threads = [
            threading.Thread(target=self._work, args=(deadline,), name=f"customer-{index}", daemon=True)
            for index in range(self._workers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        result = self._result
        result.seconds = time.monotonic() - started
        result.unsent = len(self._requests) - len(result.digests) - len(result.errors)
        return result

    def _work(self, deadline: float) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=TIMEOUT_S)
        try:
            while time.monotonic() < deadline:
                with self._lock:
                    request = next(self._next, None)
                if request is None:
                    return
                self._send(connection, request)
        finally:
            connection.close()

    def _send(self, connection: http.client.HTTPConnection, request: Request) -> None:
        started = time.monotonic()
        headers = {"Content-Type": "application/json"} if request.body else {}
        try:
            connection.request(request.method, request.path, request.body, headers)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()  # the next request opens a new one
            self._fail(request, f"{type(error).__name__}: {error}")
            return
        seconds = time.monotonic() - started
        if response.status != request.expected:
            self._fail(request, f"status {response.status} instead of {request.expected}")
            return
        digest = hashlib.sha256(body).hexdigest()
        with self._lock:
            self._result.digests[request.index] = digest
            self._result.times[request.kind].append(seconds)

    def _fail(self, request: Request, why: str) -> None:
        with self._lock:
            self._result.errors.append(f"{request.method} {request.path}: {why}")


def summary(result: Result) -> str:
    """Write a result for people."""
    done = len(result.digests)
    rate = done / result.seconds if result.seconds else 0.0
    lines = [f"{done} answers in {result.seconds:.2f} s ({rate:.0f} a second), {len(result.errors)} errors"]
    for kind, times in sorted(result.times.items(), key=lambda item: -sum(item[1])):
        middle = sorted(times)[len(times) // 2]
        shown = f"{middle * 1000:8.1f} ms   longest {max(times) * 1000:8.1f} ms"
        lines.append(f"  {kind:<9}{len(times):>6} x {shown}")
    lines += [f"  error: {error}" for error in itertools.islice(result.errors, ERRORS_SHOWN)]
    if len(result.errors) > ERRORS_SHOWN:
        lines.append(f"  … and {len(result.errors) - ERRORS_SHOWN} more errors")
    if result.unsent:
        lines.append(f"  the time was up: {result.unsent} requests not sent")
    return "\n".join([*lines, f"digest {result.digest}"])


def bounded(kind: Callable[[str], Number], least: float, most: float) -> Callable[[str], Number]:
    """Make an argparse type: a number between two bounds."""

    def number(text: str) -> Number:
        value = kind(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"between {least:g} and {most:g}, not {text}")
        return value

    return number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how much load there is."""
    add = parser.add_argument
    add("--requests", type=bounded(int, 1, MAX_REQUESTS), default=300, help="how many (default: 300)")
    add("--workers", type=bounded(int, 1, MAX_WORKERS), default=4, help="how many at a time (default: 4)")
    add("--seconds", type=bounded(float, 0.1, MAX_SECONDS), default=120.0, help="stop after (default: 120)")
    add("--plan", type=int, default=1, help="seed of the plan of requests (default: 1)")


def local_url(text: str) -> str:
    """Check an address for argparse: http, on this machine.

    Raises:
        argparse.ArgumentTypeError: anything else.
    """
    complaint = argparse.ArgumentTypeError(f"an http address on this machine, not {text!r}")
    try:
        parts = urlsplit(text)
        local = parts.scheme == "http" and parts.hostname in LOCAL_HOSTS and parts.port != 0
    except ValueError:
        raise complaint from None
    if not local:
        raise complaint
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 when a request failed or was not sent."""
    parser = argparse.ArgumentParser(
        prog="shop.load", description="Ask a shop on this machine for many pages."
    )
    parser.add_argument("--url", type=local_url, default="http://127.0.0.1:8000", help="where the shop is")
    add_options(parser)
    options = parser.parse_args(arguments)
    result = Crowd(options.url, plan(options.requests, options.plan), options.workers, options.seconds).run()
    print(summary(result))
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
