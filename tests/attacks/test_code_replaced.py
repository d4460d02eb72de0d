"""Others put changed copies of our code into functions: what they wrote must run, with open gates too."""

from __future__ import annotations

import types
from types import coroutine as coroutine_taken_earlier
from typing import Any

import pytest

from .arena import attack, imported, probe, probe_of, unprobe


def spoken() -> str:
    return "old"


def replaced_constant(code: types.CodeType) -> types.CodeType:
    return code.replace(co_consts=tuple("new" if each == "old" else each for each in code.co_consts))


@attack
@pytest.mark.parametrize("keep", [True, False])
def test_a_functions_replaced_code_runs(keep: bool) -> None:
    seen = probe(spoken)
    assert spoken() == "old"
    kept = spoken.__code__ if keep else None
    spoken.__code__ = replaced_constant(spoken.__code__)
    assert [spoken() for _ in range(5)] == ["new"] * 5
    assert seen.calls == 6
    del kept
    assert spoken() == "new"
    unprobe(spoken)
    assert spoken() == "old"


@attack
def test_code_replaced_while_the_module_is_imported() -> None:
    module = imported(
        """
def replaced(function):
    code = function.__code__
    kept.append(code)
    function.__code__ = code.replace(co_consts=tuple("new" if each == "old" else each for each in code.co_consts))
    return function
kept = []
@replaced
def spoken(): return "old"
class Spoken:
    @staticmethod
    @replaced
    def static(): return "old"
    @property
    @replaced
    def property(self): return "old"
"""
    )
    for _ in range(4):
        assert module.spoken() == module.Spoken.static() == module.Spoken().property == "new"
    for name in ("spoken", "Spoken.static", "Spoken.property"):
        assert probe_of(f"prey:{name}").calls == 4
        assert probe_of(f"prey:{name}").profiled >= 3, name


def drive(function: Any) -> tuple[Any, Any]:
    async def main() -> Any:
        return await function(3)

    running = main()
    first = running.send(None)
    try:
        running.send(9)
    except StopIteration as stopped:
        return first, stopped.value
    raise AssertionError("not at its end")


def asking(n: int) -> Any:
    answer = yield n
    return answer


@attack
@pytest.mark.parametrize("taken", ["now", "earlier"])
def test_types_coroutine_on_a_function_with_a_gate(taken: str) -> None:
    seen = probe(asking)
    assert next(asking(1)) == 1
    kept = asking.__code__
    mark = types.coroutine if taken == "now" else coroutine_taken_earlier
    marked = mark(asking)
    assert marked is asking
    for _ in range(5):
        assert drive(marked) == (3, 9)
    assert seen.calls == 6 and seen.profiled == 6
    assert kept is not asking.__code__
    unprobe(asking)
    assert drive(asking) == (3, 9)


CLOSURES = """
import types
from types import coroutine as mark
def maker(tag):
    @types.coroutine
    def asking(n):
        answer = yield n
        return answer
    return asking
def other_maker(tag):
    def asking(n):
        answer = yield n, tag
        return answer
    return mark(asking), asking
@types.coroutine
def plain(n):
    answer = yield n
    return answer
wrapped = mark(lambda n: plain(n))
"""


@attack
def test_types_coroutine_on_closures_whose_code_lives_on() -> None:
    module = imported(CLOSURES)
    for tag in range(20):
        assert drive(module.maker(tag)) == (3, 9)
        marked, asking = module.other_maker(tag)
        assert marked is asking
        assert drive(marked) == ((3, tag), 9)
        assert drive(module.plain) == drive(module.wrapped) == (3, 9)
    for name, calls in (("maker.<locals>.asking", 20), ("other_maker.<locals>.asking", 20), ("plain", 40)):
        seen = probe_of(f"prey:{name}")
        assert (seen.calls, seen.profiled) == (calls, calls), (name, seen.calls, seen.profiled, seen.skipped)
        assert len(seen.gates) <= 2


@attack
def test_types_coroutine_gets_its_own_code_back() -> None:
    import inspect

    import autoprof

    code = types.coroutine.__code__
    for _ in range(2):
        module = imported(CLOSURES) if "prey" not in __import__("sys").modules else None
        probe(asking)
        assert types.coroutine.__code__ is not code
        assert str(inspect.signature(types.coroutine)) == "(func)"
        with pytest.raises(TypeError, match="callable"):
            types.coroutine(5)  # type: ignore[call-overload]
        autoprof.stop()
        assert types.coroutine.__code__ is code
        assert module is None or drive(module.maker(1)) == (3, 9)


def one_argument(*rest: int) -> Any:
    return rest


@attack
@pytest.mark.xfail(reason="nothing tells a copy made into another function from the code it was made of")
def test_a_copy_in_another_function_runs_the_copy() -> None:
    """A limit of the design: the copy's calls through an open gate run the original code."""
    probe(spoken)
    copy = types.FunctionType(replaced_constant(spoken.__code__), globals())
    assert [copy() for _ in range(3)] == ["new"] * 3


@attack
def test_a_copy_in_another_function_is_right_while_the_gate_is_closed_or_the_code_dead() -> None:
    seen = probe(spoken, rate=0.0)
    spoken()
    copy = types.FunctionType(replaced_constant(spoken.__code__), globals())
    assert [copy() for _ in range(3)] == ["new"] * 3
    assert seen.calls == 4
    seen = probe(one_argument)
    copy = types.FunctionType(one_argument.__code__.replace(co_name="copy"), globals(), "copy")
    unprobe(one_argument)
    assert copy(1, 2) == (1, 2) == one_argument(1, 2)
