"""A session that lives: edits of its policy, load, an empty purse, imports, while each function of ours raises once.

`injector` has calls that are measured under a policy that stays. Here the application runs between what happens to a
service in production, and everything that our threads do is done once by each of the functions they run.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import autoprof
from autoprof import guard, load, reload, session
from autoprof.costs import purse
from tests.faults.injector import WORKLOAD, Result, Site, chosen, failing, sites, work

LEFT_OUT = {
    "__main__", "advice", "bootstrap", "cli", "comparison", "decorators", "doctor", "explain", "guard", "launcher",
    "mainhook", "run", "session", "testing",
}  # fmt: skip
"""Commands, what runs before there is a session, and the guard itself. A policy is read again and again here."""

ENTRIES = {
    "background.Background._run", "calls.begin", "calls.first", "calls.rouse", "calls.waken", "ends._end_noticed",
    "ends.finish", "ends.unwind", "flusher.Flusher._run", "governor.Governor._run", "importhook.Finder._watch",
    "importhook.Finder.find_spec", "importhook.Import._asked", "importhook.Import._enter", "importhook.Import._leave",
    "importhook.Import._rewrite", "reload.Watcher._run", "sampler.Sampler._run", "stopwatch.slow",
    "stopwatch.slow_raised", "transform.transform",
}  # fmt: skip
"""What the application, a thread or the interpreter calls: these hold the guards."""

_HEAD = "version: 1\noutput: {out}\nreload: 1h\nbudget: 1%\nrules:\n"
FIRST = _HEAD + "  - {{match: 'prey:*', policy: profile, rate: 1.0}}\n  - {{match: '{late}:*', policy: profile}}\n"
SECOND = _HEAD + (
    "  - {{match: 'prey:f*', policy: profile, rate: 50%}}\n"
    "  - {{match: 'prey:plain', policy: profile_if_slow, threshold: 1us}}\n"
    "  - {{match: 'prey:gen', policy: profile_calls}}\n"
    "  - {{match: '{late}:*', policy: profile_memory}}\n"
)
WRONG = _HEAD + "  - {{match: 'prey:*', policy: profiel}}\n"
LATE = "def twice(x):\n    return 2 * x\nclass Late:\n    def grow(self, by=1):\n        return by + 1\n"

STORED = (
    "SELECT target, sum(calls) FROM counts JOIN probes ON probes.id = probe WHERE target LIKE 'prey:%' "
    "GROUP BY target"
)

ACTS = 6
"""How often `live` has the application act."""

_numbers = itertools.count()


class Once:
    """What a function of a thread of ours takes for its thread: lets it do its work once."""

    def __init__(self) -> None:
        self.wanted = True
        self.delicate = False

    def pause(self, seconds: float) -> bool:
        if seconds == reload.SETTLE_S:
            return True
        if not self.wanted:
            return False
        self.wanted = False
        return True


class Pressure(load.Meter):
    """A meter that measures, and says what it is told."""

    said_cpu = 0.1

    def read(self, now_ns: int) -> load.Reading:
        super().read(now_ns)
        return load.Reading(self.said_cpu, 0.1, None, None, None, None)


class Living:
    """One application and its session.

    Attributes:
        seen: what the application got, act by act.
        escaped: what came out of a thread of ours.
    """

    def __init__(self, folder: str) -> None:
        self.late_name = f"late_{next(_numbers)}"
        self._folder = Path(folder)
        self._policy = self._folder / "policy.yaml"
        (self._folder / f"{self.late_name}.py").write_text(LATE)
        self.seen: list[Any] = []
        self.escaped = ""
        self._write(FIRST)
        autoprof.start(str(self._policy))
        self.prey = ModuleType("prey")
        code = compile(WORKLOAD, "/nowhere/prey.py", "exec")
        sys.modules["prey"] = self.prey
        exec(self.now.installer.rewrite_code(code, "prey"), self.prey.__dict__)
        self.now.governor.prepare()
        self.now.governor.meter = self.pressure = Pressure()

    @property
    def now(self) -> Any:
        """The session."""
        current = session.current
        assert current is not None
        return current

    def _write(self, text: str) -> None:
        self._policy.write_text(text.format(out=self._folder / "out", late=self.late_name))

    def _ours(self, run: Callable[[Any], None]) -> None:
        """Have a thread do once what a thread of ours does."""

        def act() -> None:
            ident = threading.get_ident()
            guard.suppressed.add(ident)
            try:
                run(Once())
            except BaseException as error:
                self.escaped = f"{type(error).__name__}: {error}"
            finally:
                guard.suppressed.discard(ident)

        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    def _flush(self) -> None:
        now = self.now
        now.budget._last_ns -= 10**10
        now.flusher._flushed_ns = now.flusher._turned_ns = 0
        self._ours(now.flusher._run)

    def _look(self) -> None:
        for _ in range(2):  # what a fault has left half done, or an editor half written, is asked for again
            self._ours(self.now.watcher._run)

    def _press(self, cpu: float) -> None:
        self.pressure.said_cpu = cpu
        governor = self.now.governor
        if hasattr(governor, "judge"):
            governor.judge._until_ns = 0
        self._ours(governor._run)

    def _act(self) -> None:
        self.seen += work(self.prey)

    def _import(self) -> None:
        try:
            late = importlib.import_module(self.late_name)
            self.seen += [late.twice(4), late.Late().grow(by=2), [each for each in vars(late) if each[:2] != "__"]]
        except BaseException as error:
            self.seen.append(f"{type(error).__name__}: {error}")

    def live(self) -> None:
        """Go through all of it; the application acts in between."""
        self._act()
        self._flush()
        purse.left_ns = -1.0
        self._act()
        self._flush()
        self._press(0.99)
        self._act()
        self._import()
        self._write(SECOND)
        self._look()
        self._press(0.1)
        self._act()
        self._write(WRONG)
        self._look()
        self._act()
        self._flush()
        self._write(FIRST)
        self._look()
        self._act()

    def recover(self) -> str:
        """Once nothing raises any more: tell what does not work again; "" when all does."""
        for text in (SECOND, FIRST):
            self._write(text + "# again\n")
            self._look()
        for cpu in (0.99, 0.1):
            self._press(cpu)
        self._act()
        now = self.now
        now.flusher._retry_ns = 0  # a write that failed is tried again after five seconds
        self._flush()
        wrong = []
        if len(now.policy.rules) != FIRST.count("match:"):
            wrong.append("the policy in force is not the file's")
        if now.governor.reason:
            wrong.append("paused for ever")
        if now.flusher.last_error:
            wrong.append(f"writing fails: {now.flusher.last_error}")
        return ", ".join(wrong)


def counted_twice(folder: str) -> str:
    """Name the functions of which more calls are in the store than were made; "" when there are none."""
    acts, inner = ACTS + 1, 25 * 3 + 15
    made = {"plain": 3, "fib": inner, "gen": 3, "fails": 3, "coro": 3, "agen": 3}
    path = next(Path(folder, "out").glob("*.db"), None)
    if path is None:
        return ""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(STORED).fetchall()
    over = [f"{name}: {calls} calls" for name, calls in rows if calls > acts * made[name.partition(":")[2]]]
    return f"more than was made: {', '.join(over)}" if over else ""


def living_sites() -> list[Site]:
    """Return every function of the package that a living session may run."""
    return [each for each in sites(LEFT_OUT, inner=True) if f"{each.module}.{each.name}" not in ENTRIES]


def expected() -> list[Any]:
    """Return what the application sees in `live` without autoprof."""
    module = ModuleType("prey")
    exec(compile(WORKLOAD, "/nowhere/prey.py", "exec"), module.__dict__)
    act, late = work(module), [8, 3, ["twice", "Late"]]
    return [*act * 3, *late, *act * (ACTS - 3)]


def inject(site: Site, error: str, nth: int) -> Result:
    """Live once with a function that raises at its n-th call."""
    with tempfile.TemporaryDirectory() as folder, _on_path(folder):
        living = Living(folder)
        with failing(site, error, nth) as fired:
            living.live()
        counted = bool(guard.internal_errors)
        pairs = itertools.zip_longest(expected(), living.seen)
        noticed = next((f"{a!r} became {b!r}" for a, b in pairs if a != b), "")
        if living.escaped:
            noticed = noticed or f"a thread of ours died of {living.escaped}"
        noticed = noticed or living.recover()
        session.stop()
        noticed = noticed or counted_twice(folder)
        sys.modules.pop(living.late_name, None)
    return Result(f"{site.module}.{site.name}", error, nth, len(fired), not noticed, counted, noticed)


@contextlib.contextmanager
def _on_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(folder)


def run(
    nths: tuple[int, ...], errors: list[str], part: slice, names: list[str] | None = None
) -> Iterator[Result]:
    """Inject everywhere, one fresh session each."""
    for site in chosen(living_sites(), part, names):
        for nth in nths:
            for error in errors:
                yield inject(site, error, nth)
