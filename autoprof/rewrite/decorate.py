"""The portable back end: an equivalent wrapper around a function, for where bytecode can't be rewritten.

The gate, probes and strategies are those of the splice; only the way in differs.
"""

from __future__ import annotations

import ast
import functools
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from autoprof.gate import Gate

_PLACE = "autoprof's decorator stands here: 5c1a7c1e"
"""The constant that is exchanged for the hook after compiling, so that no name appears in the module."""

_CO_GENERATOR, _CO_COROUTINE, _CO_ITERABLE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


def wrap(function: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
    """Return a wrapper of the same kind (plain, coroutine, generator, async generator) behind the gate."""
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    wrapper: Any
    if flags & _CO_COROUTINE:
        wrapper = _wrap_coroutine(function, gate)
    elif flags & _CO_ASYNC_GENERATOR:
        wrapper = _wrap_async_generator(function, gate)
    elif flags & _CO_GENERATOR:
        wrapper = _wrap_generator(function, gate)
        if flags & _CO_ITERABLE:
            wrapper = types.coroutine(wrapper)
    else:
        wrapper = _wrap_plain(function, gate)
    functools.update_wrapper(wrapper, function)
    if hasattr(function, "__defaults__"):
        wrapper.__defaults__ = function.__defaults__
        wrapper.__kwdefaults__ = function.__kwdefaults__
    return wrapper  # type: ignore[no-any-return]


def _enter(gate: Gate) -> Any:
    """Open the gate for one call and take the tick that the splice's inner call would take."""
    try:
        call = gate.begin(gate)
    except (RecursionError, MemoryError):
        return None
    if call is not None:
        next(gate.ticks, None)
    return call


def _wrap_plain(function: Callable[..., Any], gate: Gate) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if next(gate.ticks, False):
            return function(*args, **kwargs)
        call = _enter(gate)
        if call is None:
            return function(*args, **kwargs)
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            gate.unwind(call, error)
            raise
        gate.finish(call, result)
        return result

    return wrapper


def _wrap_coroutine(function: Callable[..., Any], gate: Gate) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None if next(gate.ticks, False) else _enter(gate)
        if call is None:
            return await function(*args, **kwargs)
        try:
            result = await function(*args, **kwargs)
        except BaseException as error:
            gate.unwind(call, error)
            raise
        gate.finish(call, result)
        return result

    return wrapper


def _wrap_generator(function: Callable[..., Any], gate: Gate) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None if next(gate.ticks, False) else _enter(gate)
        if call is None:
            return (yield from function(*args, **kwargs))
        try:
            result = yield from function(*args, **kwargs)
        except BaseException as error:
            gate.unwind(call, error)
            raise
        gate.finish(call, result)
        return result

    return wrapper


def _wrap_async_generator(function: Callable[..., Any], gate: Gate) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None if next(gate.ticks, False) else _enter(gate)
        stream = function(*args, **kwargs)
        try:
            sent = None
            step = stream.__anext__()
            while True:
                try:
                    item = await step
                except StopAsyncIteration:
                    break
                try:
                    sent = yield item
                except GeneratorExit:
                    await stream.aclose()
                    raise
                except BaseException as error:
                    step = stream.athrow(error)
                else:
                    step = stream.asend(sent)
        except BaseException as error:
            if call is not None:
                gate.unwind(call, error)
            raise
        if call is not None:
            gate.finish(call, None)

    return wrapper


class _Decorate(ast.NodeTransformer):
    """Put the hook innermost on every function, with its qualified name as the compiler will give it."""

    def __init__(self, wanted: Callable[[str, int], bool]) -> None:
        self.wanted = wanted
        self.path: list[str] = []
        self.globals: list[set[str]] = [set()]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self.path.append(node.name)
        self.generic_visit(node)
        self.path.pop()
        return node

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        declared = node.name in self.globals[-1]
        qualname = node.name if declared else ".".join((*self.path, node.name))
        self.path += [node.name, "<locals>"]
        self.globals.append({name for each in node.body if isinstance(each, ast.Global) for name in each.names})
        self.generic_visit(node)
        self.globals.pop()
        del self.path[-2:]
        if self.wanted(qualname, node.lineno):
            call = ast.Call(
                func=ast.Attribute(value=ast.Constant(_PLACE), attr="at", ctx=ast.Load()),
                args=[ast.Constant(qualname), ast.Constant(node.lineno)],
                keywords=[],
            )
            # The position of the def itself: a decorator's own line would move co_firstlineno.
            for each in ast.walk(call):
                ast.copy_location(each, node)
            node.decorator_list.append(call)
        return node

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function


def decorate_source(
    source: str | bytes,
    path: str,
    wanted: Callable[[str, int], bool],
    decorator: Callable[[str, int], Callable[[Any], Any]],
) -> types.CodeType:
    """Compile a module with a decorator innermost on every function that `wanted(qualname, line)` names.

    Raises:
        SyntaxError: as the plain import would.
    """
    tree: ast.Module = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    _Decorate(wanted).visit(tree)
    return _with_hook(compile(tree, path, "exec", dont_inherit=True), _Hook(decorator))


class _Hook:
    __slots__ = ("at",)

    def __init__(self, at: Callable[[str, int], Callable[[Any], Any]]) -> None:
        self.at = at


def _with_hook(code: types.CodeType, hook: _Hook) -> types.CodeType:
    consts: list[object] = []
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            const = _with_hook(const, hook)
        elif type(const) is str and const == _PLACE:
            const = hook
        consts.append(const)
    return code.replace(co_consts=tuple(consts))
