"""Imports of ours that a call begins, and forks meanwhile: the child must be able to import the same."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from autoprof import importing
from tests.conftest import Environment

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")

POLICY = """\
version: 1
env: dev
output: out
budget: off
load: off
rules:
  - {match: 'wares:drawn', policy: flame_graph, rate: 1.0}
"""
# The thread's first measured call imports pyinstrument; a finder of the application's makes that take its time.
FORKING = """\
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import wares
inside, seen = threading.Event(), []
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "pyinstrument.profiler" and not seen:
            seen.append(name)
            inside.set()
            time.sleep(0.3)
assert "pyinstrument" not in sys.modules
sys.meta_path.insert(0, Slow())
thread = threading.Thread(target=wares.drawn)
thread.start()
assert inside.wait(30)
child = os.fork()
if child == 0:
    signal.alarm(20)
    import pyinstrument
    wares.drawn()
    os._exit(7 if hasattr(pyinstrument, "Profiler") else 8)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
thread.join()
"""


def test_a_fork_waits_for_an_import_that_a_call_began(environment: Environment, tmp_path: Path) -> None:
    (tmp_path / "wares.py").write_text("def drawn():\n    return 1\n")
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "app.py").write_text(FORKING)
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.stdout, done.stderr, done.returncode) == ("7\n", "", 0)


def test_a_measured_call_makes_no_import(environment: Environment, tmp_path: Path) -> None:
    """An application may replace `__import__`, as tests do; what we ask of it would end up in its `sys.modules`."""
    (tmp_path / "wares.py").write_text("def first():\n    return 1\ndef second():\n    return 2\n")
    (tmp_path / "policy.yaml").write_text(
        "version: 1\nbudget: off\nload: off\nrules: [{match: 'wares:*', policy: profile, rate: 1.0}]\n"
    )
    (tmp_path / "app.py").write_text(
        "import builtins, blinker, wares\nwares.first()\nasked, plain = [], builtins.__import__\n"
        "def ask(name, *rest):\n    asked.append(name)\n    return plain(name, *rest)\n"
        "builtins.__import__ = ask\nfor _ in range(10):\n    wares.first()\n    wares.second()\n"
        "builtins.__import__ = plain\nprint(asked)\n"
        "import autoprof\nprint([each.profiled for each in autoprof.status()])\n"
    )
    done = environment.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.stdout, done.stderr) == ("[]\n[11, 10]\n", "")


def ours(source: str) -> FunctionType:
    """Return a function that stands in a file of ours."""
    code = compile(source, str(Path(importing.__file__).with_name("imagined.py")), "exec")
    inner = next(each for each in code.co_consts if isinstance(each, CodeType))
    return FunctionType(inner, {"__builtins__": __builtins__})


class Held:
    """A module whose import lasts until it is let go."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inside, self.let_go = threading.Event(), threading.Event()
        (folder / "slow_wares.py").write_text(
            "from held_by_test import held\nheld.inside.set()\nheld.let_go.wait(30)\n"
        )
        (folder / "slow_shop.py").write_text("import slow_wares\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setitem(sys.modules, "held_by_test", self)  # type: ignore[arg-type]
        self.held = self
        for name in ("slow_wares", "slow_shop"):
            monkeypatch.delitem(sys.modules, name, raising=False)

    def seen(self, act: object) -> bool:
        """Whether the import that a thread makes in `act` is taken for one of ours."""
        thread = threading.Thread(target=act)  # type: ignore[arg-type]
        thread.start()
        try:
            assert self.inside.wait(30)
            return importing._others_import()
        finally:
            self.let_go.set()
            thread.join()
            assert not importing._others_import()


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def act():\n    import slow_wares\n", True),
        ("def act():\n    from slow_wares import held\n", True),
        ("def act():\n    from importlib import import_module\n    import_module('slow_wares')\n", True),
        ("def act():\n    import slow_shop\n", True),
        # As our loader does for the application's import: that one lasts as long as it likes, a server's for ever.
        (
            "def act():\n"
            "    from importlib.util import find_spec, module_from_spec\n"
            "    spec = find_spec('slow_wares')\n"
            "    spec.loader.exec_module(module_from_spec(spec))\n",
            False,
        ),
    ],
)
def test_whose_import_it_is(
    source: str, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Held(tmp_path, monkeypatch).seen(ours(source)) is expected


def test_imports_of_the_application_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held(tmp_path, monkeypatch)
    assert not held.seen(lambda: __import__("slow_shop"))


def test_a_fork_waits_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LIMIT_S", 0.01)
    entered, leave = threading.Event(), threading.Event()

    def import_for_ever() -> None:
        with importing.importing:
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=import_for_ever)
    thread.start()
    assert entered.wait(30)
    importing.hold()
    other = threading.Thread(target=lambda: importing.importing.__enter__())
    other.start()
    other.join()  # it goes on without the lock
    importing.release()
    leave.set()
    thread.join()
    importing.hold()
    importing.release()
    assert importing._lock.acquire(False)
    importing._lock.release()
