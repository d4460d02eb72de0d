"""The portable back end: an equivalent wrapper around a function, for where bytecode can't be rewritten.

The gate, probes and strategies are those of the splice; only the way in differs.
"""

from __future__ import annotations

import ast
import functools
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from autoprof.gate import Gate

_PLACE = "autoprof's decorator stands here: 5c1a7c1e"
"""The constant that is exchanged for the hook after compiling, so that no name appears in the module."""

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_HOLDERS = (ast.stmt, ast.excepthandler, ast.match_case)
"""What statements can stand in: expressions hold none."""

_CO_GENERATOR, _CO_COROUTINE, _CO_ITERABLE, _CO_ASYNC_GENERATOR = 0x20, 0x80, 0x100, 0x200


def wrap(function: Callable[..., Any], gate: Gate) -> Callable[..., Any]:
    """Return a wrapper of the same kind (plain, coroutine, generator, async generator) behind the gate.

    A generator-like call counts and begins at its first step, since calling such a function runs nothing of
    it; the splice counts it at the call.
    """
    flags = _kind(function)
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
    for name in ("__defaults__", "__kwdefaults__"):
        if hasattr(function, name):
            setattr(wrapper, name, getattr(function, name))
    return wrapper  # type: ignore[no-any-return]


def is_generator_like(function: object) -> bool:
    """Tell whether a call of it returns something that runs later."""
    return bool(_kind(function) & (_CO_GENERATOR | _CO_COROUTINE | _CO_ASYNC_GENERATOR))


def _kind(function: object) -> int:
    return int(getattr(getattr(function, "__code__", None), "co_flags", 0))


# The wrappers look alike, and are written out because `begin` takes its caller's frame for the place that the
# stack of the call ends at. They use nothing but builtins, the gate and the function: so cloudpickle can send
# them to where autoprof is not installed. After `begin` the next tick is the one that the splice's inner call
# would take; where another thread has just used up the ticks, the splice's inner call is counted by a `begin` of its
# own, here by hand. `tb_next` leaves the wrapper out of tracebacks: their first entry is the frame that catches.


def _wrap_plain(function: Callable[..., Any], gate: Gate) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None
        if next(gate.ticks, False) is False:
            try:
                call = gate.begin(gate)
            except gate.caught:
                pass
            if call is not None and next(gate.ticks, False) is False:
                gate.used += 1
        try:
            result = function(*args, **kwargs)
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if call is not None:
                gate.unwind(call, error)
            raise
        if call is not None:
            gate.finish(call, result)
        return result

    return wrapper


def _wrap_coroutine(function: Callable[..., Any], gate: Gate) -> Any:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None
        if next(gate.ticks, False) is False:
            try:
                call = gate.begin(gate)
            except gate.caught:
                pass
            if call is not None and next(gate.ticks, False) is False:
                gate.used += 1
        try:
            body = function(*args, **kwargs)
            if call is not None:
                call.function = frame_lives = lambda: None  # noqa: F841 - dies with this frame
                gate.finish(call, body)  # follows it from here on
            result = await body
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if call is not None:
                if isinstance(error, GeneratorExit):
                    gate.finish(call, None)
                else:
                    gate.unwind(call, error)
            raise
        if call is not None:
            gate.finish(call, result)
        return result

    return wrapper


def _wrap_generator(function: Callable[..., Any], gate: Gate) -> Any:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None
        if next(gate.ticks, False) is False:
            try:
                call = gate.begin(gate)
            except gate.caught:
                pass
            if call is not None and next(gate.ticks, False) is False:
                gate.used += 1
        try:
            body = function(*args, **kwargs)
            if call is not None:
                call.function = frame_lives = lambda: None  # noqa: F841 - dies with this frame
                gate.finish(call, body)  # follows it from here on
            result = yield from body
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if call is not None:
                if isinstance(error, GeneratorExit):
                    gate.finish(call, None)
                else:
                    gate.unwind(call, error)
            raise
        if call is not None:
            gate.finish(call, result)
        return result

    return wrapper


def _wrap_async_generator(function: Callable[..., Any], gate: Gate) -> Any:
    get_hooks, set_hooks = sys.get_asyncgen_hooks, sys.set_asyncgen_hooks

    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        call = None
        if next(gate.ticks, False) is False:
            try:
                call = gate.begin(gate)
            except gate.caught:
                pass
            if call is not None and next(gate.ticks, False) is False:
                gate.used += 1
        try:
            body = function(*args, **kwargs)
            if call is not None:
                call.function = frame_lives = lambda: None  # noqa: F841 - dies with this frame
                gate.finish(call, body)  # follows it from here on
            # The event loop must know the wrapper only: at its shutdown it would close both at once.
            hooks = get_hooks()
            set_hooks(None, None)
            try:
                step = body.__anext__()
            finally:
                set_hooks(*hooks)
            while True:
                try:
                    item = await step
                except StopAsyncIteration:
                    break
                try:
                    sent = yield item
                except GeneratorExit:
                    await body.aclose()
                    raise
                except BaseException as error:
                    error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
                    step = body.athrow(error)
                else:
                    step = body.asend(sent)
        except BaseException as error:
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next
            if call is not None:
                if isinstance(error, GeneratorExit):
                    gate.finish(call, None)
                else:
                    gate.unwind(call, error)
            raise
        if call is not None:
            gate.finish(call, None)

    return wrapper


class _Decorator:
    """Put the hook innermost on every function, with its qualified name as the compiler will give it.

    Source of the rule: `compiler_set_qualname` in CPython's `Python/compile.c`.
    """

    def __init__(self, wanted: Callable[[str, int], bool]) -> None:
        self.wanted = wanted

    def visit(self, nodes: Iterable[ast.AST], path: tuple[str, ...], declared: set[str]) -> None:
        """Visit a scope's statements.

        Args:
            path: the parts of the scope's qualified name.
            declared: names that the scope declares `global`: what is defined under them loses its parents.
        """
        for node in nodes:
            if isinstance(node, _SCOPES):
                own_path = (node.name,) if node.name in declared else (*path, node.name)
                inner_path = own_path if isinstance(node, ast.ClassDef) else (*own_path, "<locals>")
                self.visit(node.body, inner_path, _declared_global(node.body))
                if not isinstance(node, ast.ClassDef):
                    self.decorate(node, ".".join(own_path))
            elif isinstance(node, _HOLDERS):
                self.visit(ast.iter_child_nodes(node), path, declared)

    def decorate(self, node: ast.FunctionDef | ast.AsyncFunctionDef, qualname: str) -> None:
        if not self.wanted(qualname, node.lineno):
            return
        call = ast.Call(
            func=ast.Attribute(value=ast.Constant(_PLACE), attr="at", ctx=ast.Load()),
            args=[ast.Constant(qualname), ast.Constant(node.lineno)],
            keywords=[],
        )
        # The position of the def itself: a decorator's own line would move co_firstlineno.
        for each in ast.walk(call):
            ast.copy_location(each, node)
        node.decorator_list.append(call)


def _declared_global(nodes: Iterable[ast.AST]) -> set[str]:
    """Return the names that a scope declares `global`, anywhere but in the scopes inside it."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Global):
            found.update(node.names)
        elif isinstance(node, _HOLDERS) and not isinstance(node, _SCOPES):
            found |= _declared_global(ast.iter_child_nodes(node))
    return found


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
    tree: Any = compile(source, path, "exec", ast.PyCF_ONLY_AST, dont_inherit=True)
    _Decorator(wanted).visit(tree.body, (), set())
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
