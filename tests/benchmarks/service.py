"""What autoprof costs a Flask service under gunicorn: CPU of the worker a request, plain and profiled by turns.

A process keeps what chance gave it (where its objects lie in the caches) for as long as it lives: two plain workers
differ by several per cent, and the one that was started first tends to stay the fastest. So every two pairs have
servers of their own, started in another order each time; the profiled one is compared with the mean of two plain ones,
and these with each other: what the figure could be if autoprof cost nothing.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.benchmarks.measure import Figure

STARTS = 10
PAIRS = 2
"""Of each start: twenty in all."""

REQUESTS = 300
WARM_UP = 300
_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parents[1]
FRAMEWORKS = "[service_app:*, 'flask:*', 'flask.*:*', 'werkzeug:*', 'werkzeug.*:*', 'jinja2:*', 'jinja2.*:*', 'click:*', 'click.*:*']"


def figures() -> Iterator[Figure]:
    """Measure a plain worker against one with 0.1 % `profile_production`: the application alone, and its frameworks."""
    try:
        import flask  # noqa: F401
        import gunicorn  # noqa: F401
    except ImportError as missing:
        yield Figure(f"service: not measured ({missing.name} is not installed)", 0.0, "")
        return
    folder = tempfile.mkdtemp(prefix="autoprof-service-")
    try:
        yield from _compare(folder, "application", "service_app:*", 1.02)
        yield from _compare(folder, "application and frameworks", FRAMEWORKS, 1.06)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _compare(folder: str, name: str, globs: str, limit: float) -> Iterator[Figure]:
    policy = os.path.join(folder, "policy.yaml")
    with open(policy, "w", encoding="utf-8") as file:
        file.write(
            f"version: 1\nenv: prod\noutput: {folder}/data\nrules:\n"
            f"  - match: {globs}\n    policy: profile_production\n    sample_rate: 0.1%\n"
        )
    ratios: tuple[list[float], list[float]] = ([], [])
    latencies: tuple[list[float], list[float]] = ([], [])
    plain_s: list[float] = []
    for start in range(STARTS):
        for plain, control, profiled in _pairs(policy, start):
            plain_s.append((plain[0] + control[0]) / 2)
            ratios[0].append(control[0] / plain[0])
            ratios[1].append(profiled[0] / plain_s[-1])
            for kept, each in zip(latencies, (plain, profiled), strict=True):
                kept.extend(each[1])
    note = f"{statistics.median(plain_s) * 1e6:.0f} us plain, {_quarters(ratios[1])}"
    yield Figure(f"service, {name}: CPU a request", statistics.median(ratios[1]), "times", limit, note=note)
    yield Figure("  one plain worker, of another", statistics.median(ratios[0]), "times", note=_quarters(ratios[0]))
    yield Figure(f"service, {name}: p99", *_p99(*latencies))


def _pairs(policy: str, start: int) -> Iterator[list[tuple[float, list[float]]]]:
    """Start a plain, a control and a profiled server; yield what each took, in this order, for every pair."""
    servers: dict[int, Server] = {}
    try:
        order = [(start + step) % 3 for step in range(3)]
        for index in order:
            servers[index] = Server((None, None, policy)[index])
            servers[index].load(WARM_UP)
        for pair in range(PAIRS):
            turn = order if pair % 2 else order[::-1]
            taken = {index: servers[index].load(REQUESTS) for index in turn}
            yield [taken[index] for index in range(3)]
    finally:
        for each in servers.values():
            each.stop()


def _quarters(ratios: list[float]) -> str:
    return f"quarters {_quantile(ratios, 0.25):.3f} to {_quantile(ratios, 0.75):.3f}"


def _p99(plain: list[float], profiled: list[float]) -> tuple[float, str, None, bool, str]:
    """Return the 99th percentile under autoprof, with the plain one and both intervals (order statistics, 95 %)."""
    shown = []
    for each in (plain, profiled):
        ordered = sorted(each)
        rank = 0.99 * len(ordered)
        margin = 1.96 * (len(ordered) * 0.99 * 0.01) ** 0.5
        low, high = ordered[int(rank - margin)], ordered[min(int(rank + margin), len(ordered) - 1)]
        shown.append(f"{ordered[int(rank)] * 1e3:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})")
    return _quantile(profiled, 0.99) * 1e3, "ms", None, False, f"plain {shown[0]}, profiled {shown[1]}"


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


class Server:
    """One gunicorn with one synchronous worker.

    Args:
        policy: path for AUTOPROF_CONFIG; None for a plain server.
    """

    def __init__(self, policy: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AUTOPROF_")}
        command = [sys.executable, "-m", "gunicorn"]
        if policy:
            environment["AUTOPROF_CONFIG"] = policy
            command = [sys.executable, "-m", "autoprof", "run", "-c", policy, "-m", "gunicorn"]
        paths = [str(_ROOT), str(_HERE), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command += ["-w", "1", "-b", f"127.0.0.1:{self.port}", "--log-level", "error", "service_app:app"]
        self._process = subprocess.Popen(command, env=environment)
        self._worker = int(self._await("/pid"))

    def _await(self, path: str) -> str:
        for _ in range(600):
            try:
                return self.get(path)[0].decode()
            except OSError:
                time.sleep(0.1)
        self.stop()
        raise RuntimeError("the server did not answer within a minute")

    def get(self, path: str) -> tuple[bytes, float]:
        """Return the body and the seconds it took."""
        began = time.perf_counter()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status}")
        finally:
            connection.close()
        return body, time.perf_counter() - began

    def load(self, requests: int) -> tuple[float, list[float]]:
        """Send requests one after another; return the worker's CPU seconds a request, and each one's latency."""
        before = self._cpu_s()
        took = [self.get(f"/?first={number}")[1] for number in range(requests)]
        return (self._cpu_s() - before) / requests, took

    def _cpu_s(self) -> float:
        """CPU of all threads of the worker: user and system, to the nanosecond."""
        total_ns = 0
        for task in Path(f"/proc/{self._worker}/task").iterdir():
            total_ns += int((task / "schedstat").read_text().split()[0])
        return total_ns / 1e9

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


if __name__ == "__main__":
    for figure in figures():
        print(figure.line(), flush=True)
