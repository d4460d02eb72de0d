"""One server or program under a policy: start it, talk to it, end it, and read what autoprof has written."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from autoprof.store import StoreReader
from tests.conftest import REPOSITORY, Environment

APPS = Path(__file__).resolve().parent / "apps"
SHOP = REPOSITORY / "examples" / "shop"
DEADLINE_S = 60.0
"""For everything that is waited for: a condition, never a time."""

POLICY = """\
version: 1
output: {output}
reload: off
budget: off
load: off
rules:
  - match: {match}
    policy: profile
    rate: 1.0
"""


def needs(package: str) -> None:
    """Skip the test where a server is not installed."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed here: pip install -e .[test]")


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds and return what it returned; fail after a minute."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {DEADLINE_S:.0f} s")
        time.sleep(0.05)


def end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a process that was started as the first of its group, and of its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()


class Site:
    """A folder with a policy: where programs run and what they have measured.

    Attributes:
        folder: working directory; logs, output and policy lie in it.
    """

    def __init__(self, environment: Environment, folder: Path, match: str, policy: str = POLICY) -> None:
        self.environment = environment
        self.folder = folder
        self.output = folder / "measured"
        (folder / "policy.yaml").write_text(policy.format(output=self.output, match=match))

    def variables(self, **more: str) -> dict[str, str]:
        """Return a clean environment in which autoprof is on."""
        dropped = ("AUTOPROF_", "PYTHON", "COV_", "COVERAGE_")
        base = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        paths = os.pathsep.join(map(str, (APPS, SHOP)))
        ours = {"AUTOPROF_CONFIG": str(self.folder / "policy.yaml"), "PYTHONPATH": paths}
        return base | ours | {"SHOP_DATABASE": str(self.folder / "shop.db")} | more

    def run(self, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        command = [self.environment.python, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            env=self.variables(**more),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, error = process.communicate(timeout=2 * DEADLINE_S)
        finally:
            end_group(process)
        return subprocess.CompletedProcess(command, process.returncode, out, error)

    def run_text(self, text: str, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the text of a program to its end."""
        (self.folder / "program.py").write_text(text)
        return self.run(*options, "program.py", **more)

    @contextmanager
    def started(self, *arguments: str | Path, **more: str) -> Iterator[Process]:
        """Start a program; whatever happens, it and its children are gone afterwards."""
        process = Process(self, list(map(str, arguments)), more)
        try:
            yield process
        finally:
            process.end()

    def report(self) -> dict[str, Any]:
        """Return the report over everything measured; empty when there is nothing."""
        done = self.environment.run(
            *("-m", "autoprof", "report", self.output, "--run", "all", "--format", "json")
        )
        if done.returncode == 1:
            return {"probes": [], "processes": []}
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the report's rows by target."""
        return {row["target"]: row for row in self.report()["probes"]}

    def calls(self) -> dict[str, int]:
        """Return how often each target was called in the last run; a look into the store, quicker than a report."""
        if not list(self.output.glob("*.db")):
            return {}
        return {row.target: row.calls for row in StoreReader([str(self.output)]).select().probes if row.calls}

    def wait_for_calls(self, wanted: Mapping[str, int]) -> None:
        """Wait until the store holds these numbers; more than wanted fails at once."""

        def there() -> bool:
            found = {target: self.calls().get(target, 0) for target in wanted}
            for target, count in wanted.items():
                assert found[target] <= count, f"{target}: {found[target]} calls, {count} were made"
            return found == dict(wanted)

        try:
            wait_for(there, "calls in the store")
        except AssertionError as error:
            raise AssertionError(f"{error}; wanted {dict(wanted)}, found {self.calls()}") from None

    def check(self, wanted: Mapping[str, int], processes: int | None = None) -> dict[str, dict[str, Any]]:
        """Fail unless the report shows exactly these calls, each measured or skipped for a reason; return its rows.

        Args:
            processes: how many processes the first target must have been called in; None: any number.
        """
        rows = self.rows()
        found = {target: rows.get(target, {}).get("calls", 0) for target in wanted}
        assert found == dict(wanted)
        for target in wanted:
            row = rows[target]
            assert row["profiled"] + row["skipped"] + row["discarded"] == row["calls"], row
            assert not row["skipped_by"].get("error"), row
        if processes is not None:
            assert rows[next(iter(wanted))]["processes"] == processes
        return rows


class Process:
    """A running server; its output is kept in `server.log`."""

    def __init__(self, site: Site, arguments: Sequence[str], more: Mapping[str, str]) -> None:
        self.site = site
        self.log = site.folder / "server.log"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [site.environment.python, *arguments],
                env=site.variables(**more),
                cwd=site.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.url = ""

    @property
    def pid(self) -> int:
        """The number of the process that was started."""
        return self.process.pid

    def said(self) -> str:
        """Return everything the server has written so far."""
        return self.log.read_text(errors="replace")

    def wait_until_said(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until the log has `times` matches of a pattern; return its groups."""

        def there() -> list[str]:
            found = re.findall(pattern, self.said())
            if len(found) < times:
                assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.said()}"
                return []
            return found

        try:
            found: list[str] = wait_for(there, repr(pattern))
            return found
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.said()}") from None

    def wait_until_listening(self) -> None:
        """Wait until the server has said where it listens."""
        self.url = self.wait_until_said(r"http://127\.0\.0\.1:\d+")[0]

    def get(self, path: str) -> str:
        """Send one request on a connection of its own."""
        with urllib.request.urlopen(self.url + path, timeout=DEADLINE_S) as answer:
            text: str = answer.read().decode()
            return text

    def send(self, paths: Sequence[str], clients: int = 4) -> list[str]:
        """Send requests, several at a time; return the answers in order. One that fails raises."""
        with ThreadPoolExecutor(clients) as pool:
            return list(pool.map(self.get, paths))

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(number)
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it hangs: {self.said()}") from None

    def workers(self) -> list[int]:
        """Return the numbers of the direct children."""
        task = Path(f"/proc/{self.pid}/task")
        found: list[int] = []
        for each in task.iterdir():
            found += map(int, (each / "children").read_text().split())
        return sorted(found)

    def kill(self, pid: int) -> None:
        """Kill one process of the server's."""
        os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill what is left of the process group that was started."""
        end_group(self.process)
