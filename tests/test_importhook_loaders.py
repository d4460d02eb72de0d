"""The import hook and other finders and loaders: archives, namespaces, lazy ones, those with their own way."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprof import importhook
from tests import hooked
from tests.fake_rewriter import FakeRewriter
from tests.hooked import FUNCTION, Write, load

backend, hook, modules = hooked.backend, hooked.hook, hooked.modules


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
