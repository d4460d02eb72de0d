"""What autoprof costs a Flask service under gunicorn: CPU of the worker a request, plain and profiled by turns.

A virtual machine's processor is faster and slower by a tenth from one second to the next, whatever runs on it. So two
servers serve by turns, dozens of times: what two plain ones differ by then is a per cent, where it was seven with three
hundred requests at a time. The server that is measured serves four requests of five, one after another, so that it is
nearly as busy as without the other, which only says how fast the processor is at that moment: the budget is a share of
a core, and a server that serves a quarter of the time may spend four times that share of its own. A row with few
requests shows this. A turn's first requests, which find the other server's data in the caches, do not count. Every pair
has servers of its own, and ten pairs of two plain servers show what the figure would be if autoprof cost nothing.
"""

from __future__ import annotations

import http.client
import os
import random
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

PAIRS, FEW_PAIRS = 20, 10
"""Of what is held to a limit, and of what is not."""

TURNS = 30
REQUESTS, REFERENCE = 60, 15
"""Of the measured server, and of the plain one beside it, in one turn."""

COLD = 5
"""So many more before each turn."""

WARM_UP_S = 12.0
"""The budget's advance is spent and paid back by then, and its prices are known."""

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
        yield from _compare("application", _policy(folder, "service_app:*"), 1.02)
        yield from _compare("application and frameworks", _policy(folder, FRAMEWORKS), 1.06)
        yield from _compare("the same, half as busy", _policy(folder, FRAMEWORKS), None, REFERENCE)
        yield from _compare("control, one plain worker of another", None, None)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _policy(folder: str, globs: str) -> str:
    descriptor, path = tempfile.mkstemp(".yaml", dir=folder)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(
            f"version: 1\nenv: prod\noutput: {path}.data\nrules:\n"
            f"  - match: {globs}\n    policy: profile_production\n    sample_rate: 0.1%\n"
        )
    return path


def _compare(name: str, policy: str | None, limit: float | None, requests: int = REQUESTS) -> Iterator[Figure]:
    pairs = [_pair(policy, requests) for _ in range(FEW_PAIRS if limit is None else PAIRS)]
    plain = [each.cpu_s for each, _ in pairs]
    ratios = [measured.cpu_s / plain.cpu_s for plain, measured in pairs]
    others = [(measured.cpu_s - measured.serving_s) / plain.cpu_s for plain, measured in pairs]
    busy = statistics.mean(measured.busy for _, measured in pairs)
    note = f"{statistics.median(plain) * 1e6:.0f} us plain, {_quarters(ratios)}, mean {statistics.mean(ratios):.3f}"
    note += f" +- {statistics.stdev(ratios) / len(ratios) ** 0.5:.3f}; busy {busy:.2f} of the time"
    note += f"; not its serving thread: {statistics.median(others):.3f}"
    yield Figure(f"service, {name}: CPU a request", statistics.median(ratios), "times", limit, note=note)
    latencies = [[latency for each in side for latency in each.latencies_s] for side in zip(*pairs, strict=True)]
    yield Figure(f"service, {name}: p99", *_p99(*latencies))


class Served:
    """What the turns of one server took.

    Attributes:
        cpu_s, serving_s: CPU seconds a request, of all threads and of the serving one.
        busy: CPU seconds a second of the time that both servers' turns took.
    """

    def __init__(self) -> None:
        self.cpu_s = self.serving_s = self.busy = 0.0
        self.latencies_s: list[float] = []


def _pair(policy: str | None, requests: int) -> tuple[Served, Served]:
    """Start a plain and a profiled server (another plain one without a policy), return what each took."""
    servers: list[Server] = []
    plain, measured = Served(), Served()
    try:
        for each in random.sample((None, policy), 2):
            servers.insert(0 if each is None else len(servers), Server(each))
        turns = [(servers[0], plain, REFERENCE), (servers[1], measured, requests)]
        warm_s = time.monotonic() + WARM_UP_S
        while time.monotonic() < warm_s:
            for server, _, count in turns:
                server.load(count)
        began_s, used_s = time.monotonic(), servers[1].cpu_s()[0]
        for _ in range(TURNS):
            for server, served, count in random.sample(turns, 2):
                cpu_s, serving_s, latencies_s = server.load(count)
                served.cpu_s += cpu_s / TURNS
                served.serving_s += serving_s / TURNS
                served.latencies_s += latencies_s
        measured.busy = (servers[1].cpu_s()[0] - used_s) / (time.monotonic() - began_s)
    finally:
        for server in servers:
            server.stop()
    return plain, measured


def _quarters(ratios: list[float]) -> str:
    return f"quarters {_quantile(ratios, 0.25):.3f} to {_quantile(ratios, 0.75):.3f}"


def _p99(plain: list[float], profiled: list[float]) -> tuple[float, str, None, bool, str]:
    """Return the measured server's 99th percentile, with the plain one's and both intervals (order statistics, 95 %)."""
    shown = []
    for each in (plain, profiled):
        ordered = sorted(each)
        rank = 0.99 * len(ordered)
        margin = 1.96 * (len(ordered) * 0.99 * 0.01) ** 0.5
        low, high = ordered[int(rank - margin)], ordered[min(int(rank + margin), len(ordered) - 1)]
        shown.append(f"{ordered[int(rank)] * 1e3:.2f} ms ({low * 1e3:.2f} to {high * 1e3:.2f})")
    return _quantile(profiled, 0.99) * 1e3, "ms", None, False, f"beside it {shown[0]}, it {shown[1]}"


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

    def load(self, requests: int) -> tuple[float, float, list[float]]:
        """Send requests one after another, after some that do not count.

        Returns:
            CPU seconds a request of the worker's threads, and of its main thread; each request's latency.
        """
        for number in range(COLD):
            self.get(f"/?first={number}")
        before = self.cpu_s()
        took = [self.get(f"/?first={number}")[1] for number in range(requests)]
        after = self.cpu_s()
        return (after[0] - before[0]) / requests, (after[1] - before[1]) / requests, took

    def cpu_s(self) -> tuple[float, float]:
        """CPU of all threads of the worker, and of its main one: user and system, to the nanosecond."""
        total_ns = main_ns = 0
        for task in Path(f"/proc/{self._worker}/task").iterdir():
            taken_ns = int((task / "schedstat").read_text().split()[0])
            total_ns += taken_ns
            main_ns += taken_ns if task.name == str(self._worker) else 0
        return total_ns / 1e9, main_ns / 1e9

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(30)


if __name__ == "__main__":
    for figure in figures():
        print(figure.line(), flush=True)
