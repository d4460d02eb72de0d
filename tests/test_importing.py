"""Imports of ours that a call begins, and forks meanwhile: the child must be able to import the same."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

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


def test_a_module_that_another_thread_imports_comes_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "slow_wares.py").write_text("import time\ntime.sleep(0.2)\nlast = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "slow_wares", raising=False)
    other = threading.Thread(target=__import__, args=("slow_wares",))
    other.start()
    while "slow_wares" not in sys.modules:
        time.sleep(0.001)
    assert importing.load("slow_wares").last == 1
    other.join()
    sys.modules.pop("slow_wares")


def test_load_raises_what_the_import_raises_and_holds_nothing() -> None:
    with pytest.raises(ModuleNotFoundError):
        importing.load("autoprof.no_such_module")
    assert not importing._lock._is_owned()


def test_a_fork_waits_no_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "LIMIT_S", 0.01)
    entered, leave = threading.Event(), threading.Event()

    def import_for_ever() -> None:
        importing._lock.acquire()
        entered.set()
        leave.wait(30)

    thread = threading.Thread(target=import_for_ever)
    thread.start()
    assert entered.wait(30)
    importing.hold()
    found: list[object] = []
    other = threading.Thread(target=lambda: found.append(importing.load("json")))
    other.start()
    other.join()  # it goes on without the lock
    assert found == [json]
    importing.release()
    leave.set()
    thread.join()
    importing.hold()
    importing.release()
    assert importing._lock.acquire(False)
    importing._lock.release()
