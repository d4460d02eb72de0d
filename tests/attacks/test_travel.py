"""A function with a gate that is sent by value must run where autoprof is not installed."""

from __future__ import annotations

import importlib
import importlib.util
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .arena import attack, imported, made, probe, unprobe

PICKLERS = ("cloudpickle", "dill")
RECEIVER = """
import importlib.abc, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("autoprof", "attacks"):
            raise ImportError(f"{name} is not to be had here")
sys.meta_path.insert(0, Refuse())
import PICKLER
function = PICKLER.loads(sys.stdin.buffer.read())
try:
    import autoprof
except ImportError:
    pass
else:
    raise SystemExit("autoprof is there")
for _ in range(3):
    CHECK
print("fine", "autoprof" in sys.modules)
"""

SHAPES: dict[str, tuple[str, str]] = {
    "closure": (
        "def outer(n, tag):\n def f(x, *rest, k=1):\n  'doc'\n  return x + n, rest, k, tag\n return f\n"
        "f = outer(5, 't')",
        "assert function(1, 2, k=3) == (6, (2,), 3, 't') and function.__doc__ == 'doc'",
    ),
    "plain": ("def f(a, b=2): return a + b", "assert function(1) == 3"),
    "keywords": ("def f(a, *, k): return a, k", "assert function(1, k=2) == (1, 2)"),
    "raising": ("def f(a):\n try: return a / 0\n except ZeroDivisionError: return 'caught'", "assert function(1) == 'caught'"),
    "generator": ("def f(n):\n for each in range(n): yield each", "assert list(function(3)) == [0, 1, 2]"),
    "failing generator": (
        "def f(n):\n yield n\n raise LookupError(n)",
        "it = function(1); assert next(it) == 1\n    try: next(it)\n    except LookupError: pass",
    ),
    "coroutine": (
        "async def f(n): return n",
        "import asyncio; assert asyncio.run(function(4)) == 4",
    ),
    "with one inside": (
        "def f(n):\n def inner(x): return x * n\n return inner(2)",
        "assert function(3) == 6",
    ),
}  # fmt: skip


def sent(pickler: str, function: Any, check: str) -> str:
    """Pickle a function by value here, unpickle and check it in a process without autoprof."""
    module = importlib.import_module(pickler)
    options = {"recurse": True} if pickler == "dill" else {}
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "AUTOPROF_CONFIG")
    }
    receiver = RECEIVER.replace("PICKLER", pickler).replace("CHECK", check)
    ended = subprocess.run(
        [sys.executable, "-c", receiver],
        input=module.dumps(function, **options),
        cwd="/",
        env=environment,
        capture_output=True,
        check=False,
    )
    return (ended.stdout + ended.stderr).decode().strip()


@pytest.mark.parametrize("pickler", PICKLERS)
@pytest.mark.parametrize("state", ["open", "closed", "never called", "stopped"])
@attack
def test_functions_arrive_and_run(pickler: str, state: str) -> None:
    pytest.importorskip(pickler)
    import autoprof

    for name, (source, check) in SHAPES.items():
        function = made(source, "f")
        function.__module__ = "__main__"  # so that it is sent by value
        seen = probe(function, rate=0.0 if state == "closed" else 1.0)
        if state != "never called":
            scope: dict[str, Any] = {"function": function}
            exec(check.replace("\n    ", "\n"), scope)
            assert seen.calls == 1
        if state == "stopped":
            autoprof.stop()
        assert sent(pickler, function, check) == "fine False", name


@pytest.mark.parametrize("pickler", PICKLERS)
@attack
def test_functions_of_a_spliced_module_arrive_by_value(pickler: str) -> None:
    cloudpickle = pytest.importorskip(pickler)
    module = imported(
        "def maker(n):\n def inner(x): return x * n\n return inner\nclass Thing:\n def method(self, x): return x + 1\n"
    )
    inner = module.maker(3)
    assert inner(2) == 6 and module.Thing().method(1) == 2
    inner.__module__ = "__main__"
    assert sent(pickler, inner, "assert function(2) == 6") == "fine False"
    if pickler == "cloudpickle":
        cloudpickle.register_pickle_by_value(module)
        assert sent(pickler, module.Thing, "assert function().method(1) == 2") == "fine False"


@attack
def test_what_arrives_at_home_runs_too() -> None:
    import copy

    cloudpickle = pytest.importorskip("cloudpickle")
    function = made(SHAPES["closure"][0], "f")
    function.__module__ = "__main__"
    seen = probe(function)
    assert function(1)[0] == 6
    back = cloudpickle.loads(cloudpickle.dumps(function))
    assert back is not function and back(1, 2, k=3) == (6, (2,), 3, "t")
    assert copy.deepcopy(function) is function
    assert seen.calls == 1, "the copy is not ours any more"


@attack
def test_marshal_needs_the_original() -> None:
    """A limit: marshal knows no gates. The original is one call away."""

    def function(x: int) -> int:
        return x

    probe(function)
    function(1)
    with pytest.raises(ValueError, match="unmarshallable"):
        marshal.dumps(function.__code__)
    unprobe(function)
    assert marshal.loads(marshal.dumps(function.__code__)) == function.__code__


WORKERS = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from attacks.arena import probe
def work(x, *, k=1):
    return x * k
def add(a, b):
    return a + b
if __name__ == "__main__":
    seen = probe(work), probe(add)
    assert work(1) == 1 and add(1, 2) == 3
    for method in sys.argv[1:]:
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            assert pool.map(work, range(4)) == [0, 1, 2, 3], method
            assert pool.starmap(add, [(1, 2), (3, 4)]) == [3, 7]
        with ProcessPoolExecutor(2, mp_context=context) as executor:
            assert list(executor.map(work, range(4))) == [0, 1, 2, 3]
    print("worked")
"""


def test_multiprocessing_sends_functions_by_name(tmp_path: Path) -> None:
    from .arena import environment

    (tmp_path / "workers.py").write_text(WORKERS)
    methods = ["spawn", *(["fork", "forkserver"] if hasattr(os, "fork") else [])]
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "workers.py", *methods],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "worked\n"), ended.stderr[-3000:]
