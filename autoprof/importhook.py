"""The import hook: a finder that changes nothing but the code a module is made of.

Modules keep their plain loader and spec, and are executed by importlib itself. For a module that a rule may
name, the plain loader gets an attribute `get_code` of its own, which takes itself away when it is used and
rewrites what the plain method returned. Loaders that execute modules in their own way (pytest's, compiled
modules) do so, and the rewriter is told afterwards. The links in between are chained in C, so that tracebacks
stay as they are.
"""

from __future__ import annotations

import _frozen_importlib as _bootstrap
import sys
from _frozen_importlib_external import FileLoader, SourceFileLoader

from autoprof import guard
from autoprof.frameless import chain
from autoprof.mainhook import RunpyHook, ScriptHook, is_script
from autoprof.primitives import get_ident
from autoprof.transform import source_of, transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

    from autoprof.transform import Rewriter

_OURS = frozenset(("runpy", "importlib.util"))
_PLAIN_EXEC = SourceFileLoader.exec_module
_PLAIN_EXEC_CODE = _PLAIN_EXEC.__code__


def install(rewriter: Rewriter) -> Handle:
    """Rewrite, from now on, what is imported or run; return the handle that undoes it.

    To be called before the program starts if `__main__` is to be reached.
    """
    finder = Finder(rewriter)
    finder.install()
    if rewriter.covers("__main__"):
        if is_script():
            finder.script.install()
        if (runpy := sys.modules.get("runpy")) is not None:
            finder.runpy.install(runpy)
    return Handle(finder)


class Handle:
    """What `install` put into the interpreter."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder

    def adopt(self, rewriter: Rewriter) -> None:
        """Go on, at the same place, for another rewriter."""
        self._finder.adopt(rewriter)

    def uninstall(self) -> None:
        """Take everything out again; idempotent. Modules already imported stay as they are."""
        self._finder.uninstall()
        self._finder.runpy.uninstall()
        self._finder.script.uninstall()


class Finder:
    """First in `sys.meta_path`: lets the others find the module, then prepares its loader. Holds no lock."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.active = True
        self.runpy = RunpyHook(rewriter)
        self.script = ScriptHook(rewriter)
        self.adopt(rewriter)
        self._under_way: set[tuple[int, str]] = set()
        self._plain: Any = None
        self._watched: Any = None

    def adopt(self, rewriter: Rewriter) -> None:
        """Ask this rewriter from now on."""
        self.rewriter = self.runpy.rewriter = self.script.rewriter = rewriter
        self._covers = rewriter.covers

    def install(self) -> None:
        """Go to the front of `sys.meta_path`, and stand behind every finder at once: see `_watch`."""
        sys.meta_path.insert(0, self)
        plain = _bootstrap.module_from_spec
        self._watched = chain(self._watch, plain)
        for owner in (_bootstrap, sys.modules.get("importlib.util")):
            _replace(owner, "module_from_spec", plain, self._watched)
        self._plain = plain

    def uninstall(self) -> None:
        """Undo `install`."""
        self.active = False
        for owner in (_bootstrap, sys.modules.get("importlib.util")):
            _replace(owner, "module_from_spec", self._watched, self._plain)
        try:
            sys.meta_path.remove(self)
        except ValueError:
            pass

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec the other finders give, prepared; None for all modules that no rule names."""
        try:
            if not self._covers(name) and name not in _OURS:
                return None
            return self._find(name, path, target)
        except Exception as error:
            guard.report("importing", error)
            return None

    def _watch(self, spec: ModuleSpec) -> ModuleSpec:
        # Finders put in front of us later (pytest's, typeguard's) hide modules from us. Moving is no way:
        # who inserts at 0 and later pops 0 would remove us and leave its own. But every spec comes by here.
        try:
            if self.active and (self._covers(spec.name) or spec.name in _OURS):
                self._prepare(spec, spec.name)
        except Exception as error:
            guard.report("importing", error)
        return spec

    def _find(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        asked = (get_ident(), name)
        if not self.active or asked in self._under_way:  # another finder asks everybody, us included
            return None
        self._under_way.add(asked)
        try:
            spec = self._ask_others(name, path, target)
        except Exception:  # the plain import asks that finder again: its error, its traceback
            return None
        finally:
            self._under_way.discard(asked)
        if spec is not None:
            try:
                self._prepare(spec, name)
            except Exception as error:
                guard.report("importing", error)
        return spec

    def _ask_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        # Not importlib.util.find_spec: inside a finder it deadlocks, and it imports parents.
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None) if finder is not self else None
            if find is not None and (spec := find(name, path, target)) is not None:
                found: ModuleSpec = spec
                return found
        return None

    def _prepare(self, spec: ModuleSpec, name: str) -> None:
        if name in _OURS:
            Import(spec, spec, self, self._executed).take_exec()
            return
        holder: Any = spec
        lazy = getattr(sys.modules.get("importlib.util"), "LazyLoader", None)
        if lazy is not None and type(spec.loader) is lazy:
            holder = spec.loader  # the loader within; touching the module afterwards would load it
        if holder.loader is not None and hasattr(holder.loader, "exec_module"):
            Import(spec, holder, self, self.rewriter.module_executed).take()

    def _executed(self, module: ModuleType) -> None:
        """Take our places in a module of the standard library that runs modules."""
        if module.__name__ == "importlib.util":
            _replace(module, "module_from_spec", self._plain, self._watched)
        else:
            self.script.uninstall()  # the script is a folder or a zip file
            if self._covers("__main__"):
                self.runpy.install(module)
        if self._covers(module.__name__):
            self.rewriter.module_executed(module)


def _replace(owner: ModuleType | None, name: str, old: object, new: object) -> None:
    names = {} if owner is None else owner.__dict__
    if names.get(name) is old:
        names[name] = new


class StandIn:
    """Takes the place of a loader that is shared or a class; gone before the module's code runs."""

    def __init__(self, loader: Any) -> None:
        self.__dict__["_loader"] = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_loader"], name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # isinstance() sees the loader's class
        return type(self.__dict__["_loader"])

    def __repr__(self) -> str:
        return repr(self.__dict__["_loader"])


class Import:
    """One module's way from its spec to its execution."""

    __slots__ = ("_after", "_done", "_finder", "_holder", "_module", "_spec", "_taken", "loader")

    def __init__(
        self, spec: ModuleSpec, holder: Any, finder: Finder, after: Callable[[ModuleType], None]
    ) -> None:
        self._spec = spec
        self._holder = holder  # whose attribute `loader` is the loader: the spec, or a LazyLoader
        self._finder = finder
        self._after = after
        self._done = False
        self._module: ModuleType | None = None
        self.loader = holder.loader
        self._taken: Any = self.loader

    def take(self) -> None:
        """Arm the loader: `get_code` where importlib executes what it returns, else `exec_module`."""
        loader = self.loader
        plain = getattr(type(loader), "exec_module", None) is _PLAIN_EXEC
        if type(loader) is StandIn:
            return  # taken before, by a finder that asked us within ours
        if isinstance(loader, FileLoader):
            if "get_code" in loader.__dict__ or "exec_module" in loader.__dict__:
                return
            if plain or isinstance(loader, SourceFileLoader):
                self._take_code()
        elif plain:
            self._taken = self._holder.loader = StandIn(loader)
            self._take_code()
            plain_exec = _PLAIN_EXEC.__get__(self._taken)
            self._taken.__dict__["exec_module"] = chain(self._enter, plain_exec, self._leave)
            return
        if not plain or self._finder.rewriter.backend != "splice":
            self.take_exec()

    def take_exec(self) -> None:
        """Let the loader execute the module as it likes, and tell the rewriter afterwards."""
        if type(self.loader) is StandIn:
            return
        run = self.loader.exec_module
        if not isinstance(self.loader, FileLoader):
            self._taken = self._holder.loader = StandIn(self.loader)
        self._taken.__dict__["exec_module"] = chain(self._enter, run, self._leave)

    def _take_code(self) -> None:
        self._taken.__dict__["get_code"] = chain(self._asked, self.loader.get_code, self._rewrite)

    def _restore(self, module: ModuleType | None) -> None:
        """Give spec and module the plain loader back."""
        if self._taken is self.loader:
            return
        for owner in (self._spec, self._holder):
            if owner.loader is self._taken:
                owner.loader = self.loader
        if module is not None:
            names = object.__getattribute__(module, "__dict__")  # a lazy module must not wake up here
            if names.get("__loader__") is self._taken:
                names["__loader__"] = self.loader

    # The four that an import calls: what they are asked for goes on whatever happens to us.

    def _enter(self, module: ModuleType) -> ModuleType:
        try:
            self._taken.__dict__.pop("exec_module", None)
            self._module = module
            self._restore(module)
        except Exception as error:
            guard.report("importing", error)
        return module

    def _asked(self, name: str) -> str:
        """Step back when the code is about to run; who only looks at it may do so any number of times."""
        asker = sys._getframe(1)
        try:
            if asker.f_code is _PLAIN_EXEC_CODE or asker.f_globals.get("__name__") == "runpy":
                self._taken.__dict__.pop("get_code", None)
                self._taken.__dict__.pop("exec_module", None)
            self._restore(None)
        except Exception as error:
            guard.report("importing", error)
        return name

    def _rewrite(self, code: CodeType | None) -> CodeType | None:
        """Rewrite the module's code, or leave it to the stand-in for `exec` where runpy asked."""
        finder = self._finder
        if code is None or not finder.active:
            return code
        if finder.runpy.installed and sys._getframe(1).f_globals.get("__name__") == "runpy":
            return code
        name, loader = self._spec.name, self.loader
        result, self._done = transform(finder.rewriter, code, name, (), lambda: source_of(loader, name))
        return result

    def _leave(self, _: object) -> None:
        try:
            self._taken.__dict__.pop("get_code", None)
            module, self._module = self._module, None
            if not self._done and module is not None and self._finder.active:
                self._after(module)
        except Exception as error:
            guard.report("importing", error)
