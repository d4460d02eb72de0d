"""Which of the six decorators stand on a function, read from its source: nothing is imported or executed."""

from __future__ import annotations

import ast

from autoprof import schema, sources
from autoprof.errors import OptionError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from importlib.machinery import ModuleSpec
    from types import FrameType
    from typing import Any

KINDS = tuple(kind for kind in schema.POLICIES if kind != "none")
_HOMES = ("autoprof", "autoprof.decorators")
_DECORATED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LONGEST_CHAIN = 20  # names that stand for names


class Decorator:
    """One decorator on one function.

    Attributes:
        kind: Such as `profile`.
        line: Where it stands.
        options: Complete, by field (see `schema`); None when they are not all written down as constants, or wrong.
        unknown: Keywords whose values only running the program can tell.
        problem: What is wrong with the options; "" for nothing.
    """

    __slots__ = ("kind", "line", "options", "problem", "unknown")

    def __init__(self, kind: str, line: int, calls: list[ast.Call]) -> None:
        self.kind, self.line = kind, line
        self.options: dict[str, object] | None = None
        self.problem = ""
        given, self.unknown = _keywords(kind, calls)
        if not self.unknown:
            try:
                self.options = schema.options_for(kind, **given)
            except OptionError as problem:
                self.problem = f"OptionError: {problem}"
            except TypeError as problem:  # a keyword that is no name, or that of our own parameter
                self.problem = f"TypeError: {problem}"


def decorators(module: str, spec: ModuleSpec, qualname: str) -> list[Decorator]:
    """Return the decorators on every function of that name in a module, in the order of the source.

    Raises:
        Unreadable: There is no source, or it can't be parsed.
    """
    text = sources.source(module, spec)
    if text is None or b"autoprof" not in (
        text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    ):
        return []
    try:
        tree = ast.parse(text)
        names = _Names(tree)
        found = [one for node in _functions(tree, qualname) for one in _on(node, names)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise sources.Unreadable(f"{module} can't be parsed: {type(error).__name__}: {error}") from None
    return sorted(found, key=lambda one: one.line)


def name_of(function: Any) -> str:
    """Return a function as errors name it; "" where it has no name."""
    name = getattr(function, "__qualname__", None)
    return f"{getattr(function, '__module__', '')}:{name}" if isinstance(name, str) else ""


def name_at(frame: FrameType) -> str:
    """Return what is being decorated in the line a frame is at, from its source; "" where that can't be told."""
    import linecache  # for error messages only

    try:
        lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
        waiting: list[tuple[ast.AST, str]] = [(ast.parse("".join(lines)), "")]
        while waiting:
            outer, prefix = waiting.pop()
            for node in ast.iter_child_nodes(outer):
                inner = prefix
                if isinstance(node, _DECORATED):
                    if any(
                        each.lineno <= frame.f_lineno <= (each.end_lineno or 0)
                        for each in node.decorator_list
                    ):
                        return f"{frame.f_globals.get('__name__')}:{prefix}{node.name}"
                    inner = f"{prefix}{node.name}." + ("" if isinstance(node, ast.ClassDef) else "<locals>.")
                waiting.append((node, inner))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return ""


def _on(node: ast.FunctionDef | ast.AsyncFunctionDef, names: _Names) -> Iterator[Decorator]:
    for expression in node.decorator_list:
        kind, calls = names.meaning(expression)
        if kind:
            yield Decorator(kind, expression.lineno, calls)


def _functions(tree: ast.Module, qualname: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the definitions of a qualified name, wherever they stand (in an `if`, in a function)."""
    waiting: list[tuple[ast.AST, str]] = [(tree, "")]
    while waiting:
        outer, prefix = waiting.pop()
        for node in ast.iter_child_nodes(outer):
            inner = prefix
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if prefix + node.name == qualname:
                    yield node
                inner = f"{prefix}{node.name}.<locals>."
            elif isinstance(node, ast.ClassDef):
                inner = f"{prefix}{node.name}."
            waiting.append((node, inner))


class _Names:
    """What the names of a module stand for, as far as autoprof is concerned; scopes are not told apart."""

    def __init__(self, tree: ast.Module) -> None:
        self._dotted: dict[str, str] = {}
        self._assigned: dict[str, ast.expr] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    self._dotted[alias.asname or alias.name.partition(".")[0]] = (
                        alias.name if alias.asname else alias.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module in _HOMES:
                for alias in node.names:
                    for name in KINDS if alias.name == "*" else (alias.name,):
                        self._dotted[alias.asname or name] = f"{node.module}.{name}"
            elif isinstance(node, ast.Assign):
                self._assigned |= {to.id: node.value for to in node.targets if isinstance(to, ast.Name)}

    def meaning(self, expression: ast.expr) -> tuple[str, list[ast.Call]]:
        """Return the kind a decorator expression gives ("" for another decorator) and the calls that make it."""
        calls: list[ast.Call] = []
        for _ in range(_LONGEST_CHAIN):
            if isinstance(expression, ast.Call):
                calls.append(expression)
                expression = expression.func
            elif isinstance(expression, ast.Name) and expression.id not in self._dotted:
                if expression.id not in self._assigned:
                    break
                expression = self._assigned[expression.id]
            else:
                home, _, kind = self._dotted_name(expression).rpartition(".")
                return (kind, calls) if home in _HOMES and kind in KINDS else ("", [])
        return "", []

    def _dotted_name(self, expression: ast.expr) -> str:
        parts: list[str] = []
        while isinstance(expression, ast.Attribute):
            parts.append(expression.attr)
            expression = expression.value
        if not isinstance(expression, ast.Name):
            return ""
        return ".".join([self._dotted.get(expression.id, ""), *reversed(parts)])


def _keywords(kind: str, calls: list[ast.Call]) -> tuple[dict[str, object], list[str]]:
    """Return the keywords that are constants, and the names of the others."""
    given: dict[str, object] = {}
    unknown: list[str] = []
    for call in calls:
        pairs = [(keyword.arg or "**", keyword.value) for keyword in call.keywords]
        if kind == "profile_if_slow" and call.args:
            pairs.append(("threshold", call.args[0]))
        for name, value in pairs:
            try:
                constant = ast.literal_eval(value)
                given |= constant if name == "**" else {name: constant}
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                unknown.append(name)
    return given, unknown
