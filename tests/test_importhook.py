"""The import hook in this process: what is rewritten, when, and what stays as it was."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprof import guard, importhook
from autoprof.frameless import chain
from tests import hooked
from tests.fake_rewriter import FakeRewriter
from tests.hooked import FUNCTION, Write, load

backend, hook, modules = hooked.backend, hooked.hook, hooked.modules


def test_covered_modules_are_rewritten_and_others_not(
    hook: Callable[..., FakeRewriter], modules: Path
) -> None:
    hook("shop")
    assert load("shop").f() == "REWRITTEN"
    assert load("shop.orders").f() == "REWRITTEN"
    assert load("shop.orders").C().m() == "REWRITTEN"
    assert load("plainmod").f() == "PLAIN"


def test_one_submodule_only(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    hook("shop.orders")
    assert load("shop").f() == "PLAIN"
    assert load("shop.orders").f() == "REWRITTEN"


def test_loader_and_spec_are_the_plain_ones(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    plain = load("plainmod")
    hook("shop")
    module = load("shop")
    loader = module.__loader__
    assert type(loader) is type(plain.__loader__)
    assert module.__spec__.loader is loader
    assert set(vars(loader)) == set(vars(plain.__loader__))
    assert loader.get_code("shop").co_name == "<module>"
    assert set(vars(module)) - {"f"} == set(vars(plain)) - {"f"} | {"__path__"}


def test_looking_at_a_spec_changes_nothing(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    rewriter = hook("shop")
    spec = importlib.util.find_spec("shop.orders")
    assert spec is not None and spec.loader is not None
    assert "shop.orders" not in sys.modules
    assert spec.loader.get_source("shop.orders").startswith("def f")  # type: ignore[attr-defined]
    spec.loader.get_code("shop.orders")  # type: ignore[attr-defined]
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.f() == "REWRITTEN"
    assert "get_code" not in vars(spec.loader)
    assert rewriter.log


def test_reload_rewrites_again(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    hook("shop")
    module = load("shop.orders")
    first = module.f
    assert importlib.reload(module) is module
    assert module.f is not first
    assert module.f() == "REWRITTEN"
    assert "get_code" not in vars(module.__loader__)


def test_after_uninstall_nothing_is_rewritten(modules: Path, backend: str) -> None:
    before = list(sys.meta_path)
    handle = importhook.install(FakeRewriter(("shop",), backend))  # type: ignore[arg-type]
    spec = importlib.util.find_spec("shop.orders")
    handle.uninstall()
    handle.uninstall()
    assert sys.meta_path == before
    try:
        assert spec is not None and spec.loader is not None
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.f() == "PLAIN"
        assert load("shop").f() == "PLAIN" or "shop" in sys.modules
    finally:
        sys.modules.pop("shop", None)


def test_two_hooks_both_rewrite(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    first, second = hook("shop"), hook("shop")
    assert load("shop").f() == "REWRITTEN"
    assert bool(second.log) != bool(first.log)  # one of them prepares the loader; nobody fails


def test_a_failing_rewriter_gives_the_plain_module(
    hook: Callable[..., FakeRewriter], modules: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hook("shop", fails=True)
    assert load("shop").f() == "PLAIN"
    assert load("shop.orders").f() == "PLAIN"
    assert sum(guard.internal_errors.values()) >= 2


def test_a_failing_covers_does_not_disturb(
    hook: Callable[..., FakeRewriter], modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewriter = hook("shop")
    finder = sys.meta_path[0]

    def broken(name: str) -> bool:
        raise RuntimeError(name)

    monkeypatch.setattr(finder, "_covers", broken)
    assert load("shop").f() == "PLAIN"
    assert not rewriter.log


def test_strict_raises_in_the_import(
    hook: Callable[..., FakeRewriter], modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook("shop", fails=True)
    with monkeypatch.context() as patch:
        patch.setenv("AUTOPROF_STRICT", "1")
        with pytest.raises(RuntimeError, match="the rewriter failed"):
            load("shop")


@pytest.mark.skipif(sys.platform == "emscripten", reason="no threads in WebAssembly")
def test_imports_in_threads_do_not_deadlock(
    hook: Callable[..., FakeRewriter], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that starts a thread which imports, while the first import is still going on."""
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/a.py": "import threading, time\n"
            "def work():\n    import shop.b\n    got.append(shop.b.f())\n"
            "got = []\nt = threading.Thread(target=work)\nt.start()\nt.join(20)\n",
            "shop/b.py": "import time\ntime.sleep(0.05)\n" + FUNCTION,
            "shop/c.py": "import time\ntime.sleep(0.05)\nimport shop.d\n" + FUNCTION,
            "shop/d.py": "import time\ntime.sleep(0.05)\nimport shop.c\n" + FUNCTION,
        }
    )
    monkeypatch.syspath_prepend(str(root))
    hook("shop")
    assert load("shop.a").got == ["REWRITTEN"]
    threads = [threading.Thread(target=load, args=(name,)) for name in ("shop.c", "shop.d") * 4]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert time.monotonic() - start < 15
    assert load("shop.c").f() == load("shop.d").f() == "REWRITTEN"


def test_circular_imports(
    hook: Callable[..., FakeRewriter], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write(
        {
            "shop/__init__.py": "from shop import one\n",
            "shop/one.py": "import shop.two\n" + FUNCTION,
            "shop/two.py": "from shop import one\n" + FUNCTION,
        }
    )
    monkeypatch.syspath_prepend(str(root))
    hook("shop")
    assert load("shop").one.f() == load("shop.two").f() == "REWRITTEN"


def test_bytecode_files_hold_plain_code(
    hook: Callable[..., FakeRewriter], modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    hook("shop")
    load("shop.orders")
    cached = importlib.util.cache_from_source(str(modules / "shop" / "orders.py"))
    assert b"REWRITTEN" not in Path(cached).read_bytes()


def test_run_module_and_run_path(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    import runpy

    hook("shop", "__main__", "<run_path>")
    assert runpy.run_module("shop.orders")["f"]() == "REWRITTEN"
    path = str(modules / "plainmod.py")
    assert runpy.run_path(path)["f"]() == "REWRITTEN"
    assert runpy.run_path(path, run_name="__main__")["f"]() == "REWRITTEN"
    assert runpy.run_path(path, run_name="free")["f"]() == "PLAIN"
    load("shop.orders")
    with pytest.warns(RuntimeWarning, match="found in sys.modules"):
        assert runpy.run_module("shop.orders", run_name="__main__")["f"]() == "REWRITTEN"


def test_run_module_without_main_covered(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    import runpy

    hook("shop")
    assert "exec" not in vars(runpy)
    assert runpy.run_module("shop.orders")["f"]() == "REWRITTEN"
    assert load("shop.orders").f() == "REWRITTEN"


def test_a_module_that_replaces_itself(
    hook: Callable[..., FakeRewriter], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys\nclass Other:\n    def f(self): return 'PLAIN'\nsys.modules[__name__] = Other()\n"
    root = write({"shop.py": text})
    monkeypatch.syspath_prepend(str(root))
    hook("shop")
    assert load("shop").f() == "REWRITTEN"


def test_an_uncovered_module_costs_two_microseconds_at_most() -> None:
    class Rewriter(FakeRewriter):
        def covers(self, module: str) -> bool:
            return known[module]

    known = {"json.decoder": False}
    finder = importhook.Finder(Rewriter(()))  # type: ignore[arg-type]
    sys.meta_path.insert(0, finder)
    try:
        best = min(_per_call_ns(finder.find_spec) for _ in range(20))
    finally:
        sys.meta_path.remove(finder)
    assert best < 2000


def _per_call_ns(find: Callable[..., object]) -> float:
    start = time.perf_counter_ns()
    for _ in range(1000):
        find("json.decoder", None, None)
    return (time.perf_counter_ns() - start) / 1000


def test_chain_runs_in_order_and_leaves_no_frames() -> None:
    def boom(value: int) -> int:
        raise ValueError(value)

    assert chain(int, lambda value: value + 1, str)("41") == "42"
    with pytest.raises(ValueError) as caught:
        chain(int, boom)("1")
    assert [entry.name for entry in caught.traceback] == [
        "test_chain_runs_in_order_and_leaves_no_frames",
        "boom",
    ]
