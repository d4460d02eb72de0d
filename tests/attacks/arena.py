"""Where attacks run: each in an interpreter of its own, so that a crash fails one test and shows its stack.

A test marked `@attack` is executed by a child process (`enter`); in the parent it only starts that child and
judges how it ended. Inside, `probe` puts a real probe on a function, as the decorators do, and `imported` has a
module spliced by the import hook, as a policy does.
"""

from __future__ import annotations

import ast
import difflib
import functools
import importlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FunctionType, ModuleType
    from typing import Any

    from autoprof.probe import Probe

CHILD = "AUTOPROF_TEST_ARENA"
STOPWATCH = "ARENA_STOPWATCH"
"""Set in the environment: every probe of an attack brings a stopwatch along."""
TIMED = STOPWATCH in os.environ
HERE = Path(__file__).resolve().parent
TIME_LIMIT_S = 120
IN_CHILD = CHILD in os.environ


class Outcome:
    """How a child ended: exit status (negative: by that signal), what it wrote."""

    def __init__(self, status: int, output: str, errors: str) -> None:
        self.status = status
        self.output = output
        self.errors = errors

    @property
    def crashed(self) -> bool:
        return -self.status in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)

    def tell(self) -> str:
        return f"exit status {self.status}\n{self.output[-2000:]}\n{self.errors[-6000:]}"


def environment() -> dict[str, str]:
    """Return the environment of a child: the way to the package, and nothing of coverage's."""
    import autoprof

    root = Path(autoprof.__file__).resolve().parent.parent
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", STOPWATCH) if name in os.environ
    }
    return {**kept, "PYTHONPATH": os.pathsep.join((str(HERE.parent), str(root))), CHILD: "1"}


def send(module: str, function: str, arguments: dict[str, Any], *flags: str) -> Outcome:
    """Run a function of a test module in a child and return how that ended."""
    short = module.rpartition(".")[2]
    call = f"from attacks.arena import enter; enter({short!r}, {function!r}, {arguments!r})"
    with tempfile.TemporaryDirectory() as folder:
        ended = subprocess.run(
            [sys.executable, "-X", "faulthandler", *flags, "-c", call],
            cwd=folder,
            env={**environment(), "AUTOPROF_OUTPUT": folder},
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    output, errors = (each.decode(errors="replace") for each in (ended.stdout, ended.stderr))
    return Outcome(ended.returncode, output, errors)


def enter(module: str, function: str, arguments: dict[str, Any]) -> None:
    """Run one attack; be the child's main."""
    assert ast.literal_eval(repr(arguments)) == arguments
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits it ignored
    attacked = importlib.import_module(f"attacks.{module}")
    getattr(attacked, function)(**arguments)
    guard = sys.modules.get("autoprof.guard")
    if guard is not None:
        assert not guard.internal_errors, guard.internal_errors


def attack(test: Any = None, *, status: int = 0, flags: tuple[str, ...] = ()) -> Any:
    """Have a test run in a child, which must end with `status`; parameters must be literals."""
    if test is None:
        return functools.partial(attack, status=status, flags=flags)
    if IN_CHILD:
        return test

    @functools.wraps(test)
    def judge(**arguments: Any) -> None:
        outcome = send(test.__module__, test.__name__, arguments, *flags)
        assert outcome.status == status, outcome.tell()

    return judge


# Inside a child.


def probe(function: Any, rate: float = 1.0, **options: Any) -> Probe:
    """Put a gate with a probe in front of a living function; every call is measured by default."""
    from autoprof import live, session
    from autoprof.wrapped import plain_function

    if session.current is None:
        session.start(None)
        assert session.current is not None
        session.current.budget.change(None)
        session.current.governor.end()  # what else runs on the machine must not pause what is attacked
    assert session.current is not None
    chosen = session.current.installer.chosen
    assert chosen.name == "splice", chosen.reason
    installer = session.current.installer
    inner: FunctionType = plain_function(function)
    target = f"{inner.__module__}:{inner.__qualname__}"
    made = installer.new_probe(target, "attack", "profile", {"rate": rate, "strategy": "sample", **options})
    both = [made]
    if TIMED:
        timing = {"threshold_ns": 10**15, "rate": 1.0, "strategy": "sample"}
        both.insert(0, installer.new_probe(target, "attack", "profile_if_slow", timing))
    live.splice_function(installer, inner, both)
    return made


def unprobe(function: Any) -> None:
    """Give a function its original code back."""
    from autoprof import live
    from autoprof.wrapped import plain_function

    inner = plain_function(function)
    assert live.restore([inner]) == 1


def imported(source: str, rate: float = 1.0, name: str = "prey", match: str = "*") -> ModuleType:
    """Import a module of this source with its functions spliced by the import hook."""
    from autoprof import session

    folder = Path.cwd()
    (folder / f"{name}.py").write_text(source)
    rules = [{"match": f"{name}:{match}", "policy": "profile", "rate": rate}]
    if TIMED:
        rules.insert(
            0, {"match": f"{name}:{match}", "policy": "profile_if_slow", "threshold": "7d", "env": "dev"}
        )
    session.start({"version": 1, "rules": rules, "budget": "off", "load": "off"})
    sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def probe_of(target: str) -> Probe:
    """Return the probe on a target of the session in force."""
    from autoprof import session

    assert session.current is not None
    (found,) = [
        each
        for each in session.current.installer.probes.values()
        if each.target == target and each.policy == "profile"
    ]
    return found


def made(source: str, name: str, **names: Any) -> Any:
    """Execute a source and return what it calls `name`."""
    space: dict[str, Any] = {"__name__": "attacked", **names}
    exec(source, space)
    return space[name]


def balance(probe_: Probe) -> tuple[int, int]:
    """Return the calls counted, and those accounted for: measured or skipped for a reason."""
    return probe_.calls, probe_.profiled + sum(probe_.skipped.values())


def assert_same(plain: dict[str, Any], spliced: dict[str, Any]) -> None:
    """Compare what was seen with and without us, entry by entry; say where the first difference is."""
    for name in [*plain, *(set(spliced) - set(plain))]:
        with_us, without_us = spliced.get(name), plain.get(name)
        if with_us == without_us:
            continue
        lines = [str(each).splitlines() for each in (without_us, with_us)]
        if isinstance(with_us, list) and isinstance(without_us, list):
            lines = [[repr(each) for each in side] for side in (without_us, with_us)]
        changes = list(difflib.unified_diff(*lines, "without us", "with us", lineterm="", n=2))
        raise AssertionError("\n".join([f"{name}:", *changes[:60]]))
