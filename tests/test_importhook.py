"""The import hook in this process: what is rewritten, when, and what stays as it was."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
import time
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from autoprof import guard, importhook
from autoprof.frameless import chain
from tests.fake_rewriter import FakeRewriter

Write = Callable[[Mapping[str, str]], Path]
FUNCTION = 'def f():\n    return "PLAIN"\n'


@pytest.fixture(params=["splice", "decorate"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both ways of rewriting go through every test."""
    return str(request.param)


@pytest.fixture
def hook(backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeRewriter]]:
    """Return a function that installs a rewriter for some modules; undone afterwards."""
    handles: list[importhook.Handle] = []
    modules = set(sys.modules)
    failures = dict(guard.internal_errors)

    def install(*covers: str, fails: bool = False) -> FakeRewriter:
        rewriter = FakeRewriter(covers, backend, fails)
        handles.append(importhook.install(rewriter))  # type: ignore[arg-type]
        return rewriter

    yield install
    for handle in reversed(handles):
        handle.uninstall()
    for name in set(sys.modules) - modules:
        if name.partition(".")[0] in ("shop", "plainmod", "other", "zipped", "space"):
            del sys.modules[name]
    guard.internal_errors.clear()
    guard.internal_errors.update(failures)


@pytest.fixture
def modules(write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `shop`, an uncovered module `plainmod`, both importable."""
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/orders.py": FUNCTION
            + "class C:\n    def m(self):\n        def inner(): return 'PLAIN'\n        return inner()\n",
            "shop/data.txt": "text\n",
            "plainmod.py": FUNCTION,
        }
    )
    monkeypatch.syspath_prepend(str(root))
    return root


def load(name: str) -> Any:
    """Import a module by name."""
    return importlib.import_module(name)


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


def test_zip_files(
    hook: Callable[..., FakeRewriter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped/__init__.py", FUNCTION)
        file.writestr("zipped/part.py", FUNCTION)
        file.writestr("zipped/data.txt", "text")
    monkeypatch.syspath_prepend(str(archive))
    hook("zipped")
    module, part = load("zipped"), load("zipped.part")
    assert (module.f(), part.f()) == ("REWRITTEN", "REWRITTEN")
    for each in (module, part):
        assert type(each.__loader__).__name__ == "zipimporter"
        assert each.__spec__.loader is each.__loader__
    assert module.__loader__ is sys.path_importer_cache[str(archive)]
    assert module.__loader__.get_data(str(archive / "zipped" / "data.txt")) == b"text"
    assert "exec_module" not in vars(module.__loader__)


def test_namespace_packages(
    hook: Callable[..., FakeRewriter], write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write({"one/space/a.py": FUNCTION, "two/space/b.py": FUNCTION})
    monkeypatch.syspath_prepend(str(root / "one"))
    monkeypatch.syspath_prepend(str(root / "two"))
    hook("space")
    assert load("space.a").f() == load("space.b").f() == "REWRITTEN"
    assert len(list(load("space").__path__)) == 2


def test_modules_without_source(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    import py_compile

    py_compile.compile(str(modules / "shop" / "orders.py"), cfile=str(modules / "shop" / "orders.pyc"))
    (modules / "shop" / "orders.py").unlink()
    hook("shop")
    module = load("shop.orders")
    assert module.f() == "REWRITTEN"
    assert type(module.__loader__).__name__ == "SourcelessFileLoader"


def test_frozen_builtin_and_compiled_modules(hook: Callable[..., FakeRewriter]) -> None:
    names = ("__hello__", "_sha3", "_queue", "_statistics", "xxlimited")
    saved = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    rewriter = hook(*names)
    found = []
    try:
        for name in names:
            try:
                module = load(name)
            except ImportError:
                continue
            found.append(name)
            assert module.__spec__.loader is module.__loader__
            assert type(module.__loader__) is not importhook.StandIn
        assert [name for kind, name, _ in rewriter.log if kind == "executed"] == found
        assert "__hello__" in found and len(found) >= 2
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(saved)


def test_lazy_loader_stays_lazy(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    rewriter = hook("shop")
    load("shop")
    rewriter.log.clear()
    spec = importlib.util.find_spec("shop.orders")
    assert spec is not None and spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules["shop.orders"] = module
    spec.loader.exec_module(module)
    assert not rewriter.log
    assert module.f() == "REWRITTEN"
    assert rewriter.log
    assert "get_code" not in vars(module.__loader__)


def test_lazy_loader_of_a_finder(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    from importlib.machinery import FileFinder, SourceFileLoader

    factory = importlib.util.LazyLoader.factory(SourceFileLoader)
    finder = FileFinder(str(modules), (factory, [".py"]))  # type: ignore[arg-type]

    class Lazy:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            return finder.find_spec(name) if name == "plainmod" else None

    sys.meta_path.insert(0, Lazy)  # type: ignore[arg-type]
    try:
        rewriter = hook("plainmod")
        module = load("plainmod")
        assert not rewriter.log
        assert module.f() == "REWRITTEN"
        assert type(module.__spec__.loader) is SourceFileLoader
    finally:
        sys.meta_path.remove(Lazy)  # type: ignore[arg-type]


class OwnLoader:
    """A loader shared by modules, which executes them in its own way."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        if name != "other":
            return None
        return importlib.util.spec_from_loader(name, self, origin="somewhere")  # type: ignore[arg-type]

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        assert module.__loader__ is self
        assert module.__spec__ is not None and module.__spec__.loader is self
        exec(compile(FUNCTION, "somewhere", "exec"), module.__dict__)


def test_loaders_with_their_own_way(hook: Callable[..., FakeRewriter], tmp_path: Path) -> None:
    loader = OwnLoader(tmp_path)
    sys.meta_path.insert(0, loader)  # type: ignore[arg-type]
    try:
        rewriter = hook("other")
        module = load("other")
        assert module.f() == "REWRITTEN"
        assert rewriter.log == [("executed", "other", ())]
        assert module.__loader__ is loader
        importlib.reload(module)
        assert module.f() == "REWRITTEN"
    finally:
        sys.meta_path.remove(loader)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="load_module is gone")
def test_legacy_loaders_are_left_alone(hook: Callable[..., FakeRewriter]) -> None:
    class Legacy:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> Any:
            if name != "other":
                return None
            return importlib.util.spec_from_loader(name, Legacy(), origin="x")  # type: ignore[arg-type]

        def load_module(self, name: str) -> types.ModuleType:
            module = sys.modules[name] = types.ModuleType(name)
            return module

    sys.meta_path.insert(0, Legacy)  # type: ignore[arg-type]
    try:
        hook("other")
        with pytest.warns(ImportWarning):
            assert load("other").__name__ == "other"
    finally:
        sys.meta_path.remove(Legacy)  # type: ignore[arg-type]


def test_finders_put_in_front_later_do_not_hide_modules(
    hook: Callable[..., FakeRewriter], modules: Path
) -> None:
    class Greedy:
        @staticmethod
        def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
            return importlib.machinery.PathFinder.find_spec(name, path, target)

    hook("shop")
    sys.meta_path.insert(0, Greedy)  # type: ignore[arg-type]
    try:
        assert load("shop").f() == "REWRITTEN"
        assert load("shop.orders").f() == "REWRITTEN"
        assert sys.meta_path[0] is Greedy
    finally:
        assert sys.meta_path.pop(0) is Greedy


def test_modules_made_from_a_file_by_hand(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    hook("other")
    spec = importlib.util.spec_from_file_location("other", modules / "plainmod.py")
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.f() == "REWRITTEN"
    assert "get_code" not in vars(spec.loader)


def test_two_finders_that_ask_everybody_end(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    class AsksAll:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            for finder in sys.meta_path:
                if finder is not self and (spec := finder.find_spec(name, path, target)):
                    return spec
            return None

    asks = AsksAll()
    hook("shop")
    sys.meta_path.append(asks)  # type: ignore[arg-type]
    sys.meta_path.insert(1, asks)  # type: ignore[arg-type]
    try:
        assert load("shop").f() == "REWRITTEN"
        with pytest.raises(ImportError):
            load("shop.nothing_here")
    finally:
        sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not asks]


def test_a_finder_that_raises_raises_as_without_us(hook: Callable[..., FakeRewriter], modules: Path) -> None:
    class Forbids:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name == "shop":
                raise ImportError("not here")
            return None

    forbids = Forbids()
    hook("shop")
    sys.meta_path.insert(1, forbids)  # type: ignore[arg-type]
    try:
        with pytest.raises(ImportError, match="not here") as caught:
            load("shop")
        assert not [entry for entry in caught.traceback if str(entry.path).endswith("autoprof/importhook.py")]
    finally:
        sys.meta_path.remove(forbids)  # type: ignore[arg-type]


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
