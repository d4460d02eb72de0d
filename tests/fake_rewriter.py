"""A rewriter whose work is plain to see: the string "PLAIN" in a function becomes "REWRITTEN".

Used by tests in this process, and put into the site-packages of fresh environments; `start` installs it.
"""

from __future__ import annotations

import os
import types


def rewrite(code: types.CodeType) -> types.CodeType:
    """Return the code with the constants of its functions replaced."""
    constants = tuple(
        rewrite(each) if isinstance(each, types.CodeType) else "REWRITTEN" if each == "PLAIN" else each
        for each in code.co_consts
    )
    return code.replace(co_consts=constants)


class FakeRewriter:
    """Implements autoprof.transform.Rewriter and notes what it was asked."""

    def __init__(self, covers: tuple[str, ...], backend: str = "splice", fails: bool = False) -> None:
        self.names = covers
        self.backend = backend
        self.fails = fails
        self.asked: list[str] = []
        self.log: list[tuple[str, str, tuple[str, ...]]] = []

    def covers(self, module: str) -> bool:
        """Whether the module or a package above it was named."""
        self.asked.append(module)
        name = "__main__" if module == "__mp_main__" else module
        return any(name == each or name.startswith(each + ".") for each in self.names)

    def rewrite_code(
        self, code: types.CodeType, module: str, aliases: tuple[str, ...] = ()
    ) -> types.CodeType:
        """Rewrite a module's code."""
        self.log.append(("code", module, aliases))
        if self.fails:
            raise RuntimeError("the rewriter failed")
        return rewrite(code)

    def rewrite_source(
        self, source: bytes | str, path: str, module: str, aliases: tuple[str, ...] = ()
    ) -> types.CodeType | None:
        """Compile and rewrite a module's source."""
        self.log.append(("source", module, aliases))
        if self.fails:
            raise RuntimeError("the rewriter failed")
        return rewrite(compile(source, path, "exec", dont_inherit=True))

    def module_executed(self, module: types.ModuleType) -> None:
        """Rewrite the functions of a module in place."""
        self.log.append(("executed", module.__name__, ()))
        if self.fails:
            raise RuntimeError("the rewriter failed")
        for value in list(vars(module).values()):
            value = getattr(value, "__wrapped__", value)
            if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
                value.__code__ = rewrite(value.__code__)


_started = False


def start() -> None:
    """Install the hook as the environment's FAKE_COVERS, FAKE_BACKEND and FAKE_FAILS say."""
    global _started
    if _started:  # site reads the files of a virtual environment twice
        return
    _started = True
    from autoprof import importhook

    rewriter = FakeRewriter(
        tuple(os.environ["FAKE_COVERS"].split(",")),
        os.environ.get("FAKE_BACKEND", "splice"),
        bool(os.environ.get("FAKE_FAILS")),
    )
    importhook.install(rewriter)  # type: ignore[arg-type]
    if os.environ.get("FAKE_LOG"):
        import atexit

        def log() -> None:
            with open(os.environ["FAKE_LOG"], "a") as file:
                file.writelines(
                    f"{kind} {module} {','.join(aliases)}\n" for kind, module, aliases in rewriter.log
                )

        atexit.register(log)
