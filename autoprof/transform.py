"""What the import hook asks of a rewriter, and one module's code put through it without ever failing."""

from __future__ import annotations

from _frozen_importlib_external import SourceFileLoader

from autoprof import guard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, ModuleType
    from typing import Any, Literal, Protocol

    class Rewriter(Protocol):
        """Who decides and rewrites: the session."""

        @property
        def backend(self) -> Literal["splice", "decorate"]:
            """The way functions are rewritten in this process."""

        def covers(self, module: str, /) -> bool:
            """Tell, cheaply and without side effect, whether a rule may name a function of `module`."""

        def rewrite_code(self, code: CodeType, module: str, aliases: tuple[str, ...] = ()) -> CodeType:
            """Return a module's code with the chosen functions spliced."""

        def rewrite_source(
            self, source: bytes | str, path: str, module: str, aliases: tuple[str, ...] = ()
        ) -> CodeType | None:
            """Return the code of a module's decorated source, None where nothing is to be decorated."""

        def module_executed(self, module: ModuleType, /) -> None:
            """Take over a module whose code was out of reach: its own loader ran it, or it is compiled."""

    Source = tuple[bytes | str, str]


def transform(
    rewriter: Rewriter,
    code: CodeType,
    module: str,
    aliases: tuple[str, ...] = (),
    source: Callable[[], Source | None] | None = None,
) -> tuple[CodeType, bool]:
    """Return the code to execute, and whether the rewriter has had its say about this module.

    Args:
        source: gives the text and its path, asked only by the portable back end; None where there is no text,
            then the code stays as it is and `module_executed` is the way.
    """
    try:
        if rewriter.backend == "splice":
            return rewriter.rewrite_code(code, module, aliases), True
        found = source() if source is not None else None
        if found is None:
            return code, False
        return rewriter.rewrite_source(*found, module, aliases) or code, True
    except Exception as error:
        guard.report("rewriting", error)
        return code, True


def source_of(loader: Any, module: str) -> Source | None:
    """Return a module's text and path; None where there is none, or where another hook changes it."""
    if type(loader) is SourceFileLoader:
        return loader.get_data(loader.path), loader.path
    if type(loader).__module__ == "zipimport":
        text = loader.get_source(module)
        return None if text is None else (text, loader.get_filename(module))
    return None
