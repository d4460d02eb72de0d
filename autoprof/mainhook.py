"""`__main__`: the one module that is never imported.

`python app.py` compiles and runs the file in C, but first asks `sys.path_hooks` whether the path is a place
to import from (a zip file, a folder). An answer makes it call `runpy._run_module_as_main("__main__", False)`.
So a path hook that answers for exactly that path, once, and a stand-in for `runpy` get the script's code
rewritten before it runs. The stand-in's function is made of C code only, and everything the other way of
starting changes is put back first: the program, its tracebacks and its exit status cannot tell the
difference.

`python -m`, zip files, folders, `runpy.run_path`, `runpy.run_module` and the children of multiprocessing all
end in the line `exec(code, run_globals)` of runpy. There, too, a C-only stand-in takes the place of `exec`.
"""

from __future__ import annotations

import marshal
import os
import sys
from _frozen_importlib_external import MAGIC_NUMBER, SourceFileLoader, SourcelessFileLoader
from _functools import partial  # type: ignore[import-not-found]
from _io import open_code
from _operator import call

from autoprof import guard, program
from autoprof.frameless import chain
from autoprof.transform import source_of, transform

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any

    from autoprof.transform import Rewriter, Source

_REGULAR = 0o100000  # stat.S_IFREG; the module `stat` is not loaded by every start


class ScriptHook:
    """The path hook that gets `python app.py` rewritten; it answers once, to the interpreter itself."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter

    def install(self) -> None:
        """Ask to be asked, after all others: a zip file or folder with a `__main__` is not a script."""
        sys.path_hooks.append(self)  # type: ignore[arg-type]

    def uninstall(self) -> None:
        """Leave `sys.path_hooks`; harmless when gone."""
        try:
            sys.path_hooks.remove(self)  # type: ignore[arg-type]
        except ValueError:
            pass

    def __call__(self, path: str) -> object:
        """Answer for the script's path, only to the C code that starts it; else raise ImportError."""
        if sys._getframe().f_back is not None:
            raise ImportError(f"not the start of a program: {path!r}")
        hooks: list[Any] = sys.path_hooks
        if hooks[-1] is self:  # the C code counted the hooks before it began to ask them
            self.uninstall()
        try:
            read = _read(path)
        except Exception as error:  # the plain start meets the same file and says what is wrong with it
            raise ImportError(f"left to Python: {path!r}") from error
        code, loader = read
        if isinstance(loader, SourceFileLoader):
            code, _ = transform(self.rewriter, code, "__main__", (), lambda: (_bytes_of(path), path))
        else:
            code, _ = transform(self.rewriter, code, "__main__")
        sys.modules["runpy"] = _runner(path, code, loader)  # type: ignore[assignment]
        self.uninstall()
        return self


def is_script() -> bool:
    """Tell whether this process is about to run a file: not -c, -m, a prompt or standard input."""
    command = program.own()
    return command.kind == "script" and "x" not in command.flags  # -x skips a line, which we would not


def _read(path: str) -> tuple[CodeType, SourceFileLoader | SourcelessFileLoader]:
    if os.stat(path).st_mode & 0o170000 != _REGULAR:
        raise ImportError("a pipe can be read only once")
    data = _bytes_of(path)
    if path.endswith(".pyc") or data[:2] == MAGIC_NUMBER[:2]:
        if data[:4] != MAGIC_NUMBER:
            raise ImportError("code of another version")
        return marshal.loads(data[16:]), SourcelessFileLoader("__main__", path)
    return compile(data, path, "exec", dont_inherit=True), SourceFileLoader("__main__", path)


def _bytes_of(path: str) -> bytes:
    with open_code(path) as file:
        data: bytes = file.read()
    return data


def _runner(path: str, code: CodeType, loader: object) -> object:
    """Make what stands in for the module runpy until the interpreter has called it once."""
    main = sys.modules["__main__"].__dict__
    runpy = sys.modules.get("runpy")

    # The interpreter calls the function with two arguments we have no use for, and no Python frame may stay
    # on the stack. dict.fromkeys is C and first calls its class without arguments: `__new__` makes everything
    # ready and returns, `__init__` is the program, `__setitem__` sees that it ended.
    class Program(dict):  # type: ignore[type-arg]
        def __new__(cls) -> Any:
            _as_plain_start(path, runpy)
            main.update(__file__=path, __loader__=loader)
            if sys.version_info < (3, 15):
                main["__cached__"] = None
            return dict.__new__(cls)

        __init__ = staticmethod(partial(exec, code, main))

        def __setitem__(self, key: object, value: object) -> None:
            main.pop("__file__", None)  # as Python does after a script
            main.pop("__cached__", None)

    class Runpy:
        _run_module_as_main = Program.fromkeys

    return Runpy


def _as_plain_start(path: str, runpy: ModuleType | None) -> None:
    """Undo what starting through an importer changed: modules, the importers' cache, `sys.path[0]`."""
    if runpy is None:
        sys.modules.pop("runpy", None)
    else:
        sys.modules["runpy"] = runpy
    sys.path_importer_cache[path] = None
    if sys.path[:1] != [path]:
        return
    if sys.flags.safe_path:
        del sys.path[0]
    else:
        real = os.path.abspath(path) if os.name == "nt" else os.path.realpath(path)
        sys.path[0] = os.path.dirname(real)


class RunpyHook:
    """Rewrites what runpy executes, under the name it runs by and its own name as an alias."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self._runpy: ModuleType | None = None
        self._exec: object = None

    @property
    def installed(self) -> bool:
        """Whether runpy's `exec` is ours now."""
        return self._runpy is not None

    def install(self, runpy: ModuleType) -> None:
        """Put the stand-in for `exec` into the module runpy."""
        if self._runpy is None and "exec" not in runpy.__dict__:
            self._exec = _make_exec(self._prepare)
            runpy.__dict__["exec"] = self._exec
            self._runpy = runpy

    def uninstall(self) -> None:
        """Give runpy the builtin back."""
        if self._runpy is not None and self._runpy.__dict__.get("exec") is self._exec:
            del self._runpy.__dict__["exec"]
        self._runpy = None

    def _prepare(self, code: CodeType, run_globals: dict[str, Any]) -> CodeType:
        name = run_globals.get("__name__")
        spec = run_globals.get("__spec__")
        own = getattr(spec, "name", None)
        aliases = (own,) if isinstance(own, str) and own != name else ()
        covers = self.rewriter.covers
        if not isinstance(name, str) or not any(map(covers, (name, *aliases))):
            return code
        path = run_globals.get("__file__")
        return transform(self.rewriter, code, name, aliases, lambda: _source(spec, path))[0]


def _source(spec: Any, path: Any) -> Source | None:
    if spec is not None:
        return source_of(spec.loader, spec.name)
    if not isinstance(path, str) or path.endswith(".pyc"):
        return None
    return _bytes_of(path), path


def _make_exec(prepare: Any) -> object:
    # Called as `exec(code, run_globals)`. `__new__` rewrites and returns. Looking up `__init__` then runs the code,
    # from C (a property's getter that is a chain); what is found there is a function that does nothing.
    class Exec:
        __slots__ = ("__call__",)  # a slot: C code that calls the object calls what it holds

        def __new__(cls, code: Any, run_globals: Any) -> Any:
            try:
                code = prepare(code, run_globals)
            except Exception as error:
                guard.report("runpy", error)
            self = object.__new__(cls)
            self.__call__ = partial(exec, code, run_globals)  # type: ignore[operator]
            return self

        __init__ = property(chain(call, lambda _: _nothing))

    return Exec


def _nothing(*_: object) -> None:
    pass
