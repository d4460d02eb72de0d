"""At the recursion limit: what fits without us fits with us, and nothing recurses in C that did not before."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from .arena import attack, balance, made, probe

LIMIT = 400


def leaf(x: int) -> int:
    return x


def keyword_leaf(x: int, *, k: int = 1) -> int:
    return x


def star_leaf(x: int, *rest: int, **more: int) -> int:
    return x


def stream_leaf(x: int) -> Any:
    yield x


def closure() -> Any:
    cell = 0

    def closed_leaf(x: int) -> int:
        return x + cell

    return closed_leaf


def failing_leaf(x: int) -> int:
    if x:
        raise LookupError(x)
    return x


LEAVES: dict[str, Any] = {
    "positional": (leaf, lambda function: function(0)),
    "keywords": (keyword_leaf, lambda function: function(0, k=2)),
    "stars": (star_leaf, lambda function: function(0, 1, z=3)),
    "generator": (stream_leaf, lambda function: next(function(0))),
    "closure": (closure(), lambda function: function(0)),
}


def deep(levels: int, call: Any, function: Any) -> Any:
    return call(function) if levels == 0 else deep(levels - 1, call, function)


def outcomes(call: Any, function: Any) -> tuple[list[str], int]:
    """Call at every depth up to the limit; return how each ended, and how many got through."""
    ends: list[str] = []
    for levels in range(LIMIT + 20):
        try:
            ends.append(repr(deep(levels, call, function)))
        except RecursionError as error:
            ends.append(str(error)[:40])
    return ends, ends.count("0")


@attack
@pytest.mark.parametrize("shape", sorted(LEAVES))
def test_a_leaf_fails_at_the_same_depth_and_every_call_is_counted(shape: str) -> None:
    function, call = LEAVES[shape]
    sys.setrecursionlimit(LIMIT)
    outcomes(call, function)
    plain, through = outcomes(call, function)
    seen = probe(function)
    call(function)
    for _ in range(40):
        seen.durations.clear()  # what a call took is new to the histogram: no level more for that
        outcomes(call, function)
    seen.clear()
    spliced, _ = outcomes(call, function)
    assert [*zip(plain, spliced, strict=False)] == [*zip(plain, plain, strict=False)]
    sys.setrecursionlimit(1000)
    before = seen.profiled
    for _ in range(3):
        call(function)
    assert seen.profiled == before + 3 and not seen.busy
    calls, accounted = balance(seen)
    assert calls == through + 3, (calls, through + 3, accounted)
    # Where not even `begin` fits, the body runs in place and the call is only counted.
    assert calls - 30 <= accounted <= calls


@attack
def test_an_exception_of_a_leaf_at_the_limit_is_its_own() -> None:
    def call(function: Any) -> Any:
        try:
            return function(7)
        except LookupError as error:
            return error.args[0] - 7

    sys.setrecursionlimit(LIMIT)
    outcomes(call, failing_leaf)
    plain = outcomes(call, failing_leaf)
    seen = probe(failing_leaf)
    assert outcomes(call, failing_leaf) == plain
    assert not seen.busy


@attack
@pytest.mark.parametrize("shape", ["positional", "keywords", "stars"])
def test_deep_recursion_ends_as_without_us(shape: str) -> None:
    """An open gate costs one level for the one call that is measured; nested calls run in place."""
    source = """
deepest = 0
def positional(n):
    global deepest
    deepest = n
    return positional(n + 1)
def keywords(n, *, k=1):
    global deepest
    deepest = n
    return keywords(n + 1, k=k)
def stars(n, *rest, k=1, **more):
    global deepest
    deepest = n
    return stars(n + 1, *rest, k=k, **more)
"""
    space = made(source, shape).__globals__
    function = space[shape]
    # CPython 3.11 itself overflows its C stack in a plain `f(*rest)` recursion 30 000 deep.
    for limit in (1000, 10_000 if shape == "stars" else 30_000):
        sys.setrecursionlimit(limit)

        def deepest() -> tuple[int, str]:
            try:
                function(0)
            except RecursionError as error:
                return space["deepest"], str(error)[:30]
            raise AssertionError("no end")

        plain = deepest()
        code = function.__code__
        seen = probe(function)
        spliced = deepest()
        # `begin` of the deepest calls needs some levels too, and gives them back.
        assert 0 <= plain[0] - spliced[0] <= 2 and plain[1] == spliced[1], (plain, spliced)
        calls, _accounted = balance(seen)
        assert calls == spliced[0] + 1, (calls, spliced)
        function.__code__ = code


@attack
def test_recursion_through_c_ends_as_without_us() -> None:
    class Endless:
        def __repr__(self) -> str:
            return repr([self])

        def __lt__(self, other: object) -> bool:
            return bool(sorted([self, other]))  # type: ignore[type-var]

        def __getattr__(self, name: str) -> object:
            return getattr(self, name + "x")

    def ends() -> list[str]:
        found = []
        for call in (
            lambda: repr(Endless()),
            lambda: Endless() < Endless(),
            lambda: Endless().a,
        ):
            try:
                call()
            except RecursionError as error:
                found.append(type(error).__name__)
        return found

    plain = ends()
    probes = [probe(each) for each in (Endless.__repr__, Endless.__lt__, Endless.__getattr__)]
    assert ends() == plain == ["RecursionError"] * 3
    assert all(each.calls > 10 and not each.busy for each in probes)


@attack
def test_nested_keyword_only_functions_need_no_c_stack() -> None:
    """Every level of another probe: on 3.11 a call by CALL_FUNCTION_EX would recurse in C."""
    count = 49  # as many calls of one thread are measured at once, see DEPTH_IN_FLIGHT
    bodies = "".join(
        f"def f{index}(n, *, k):\n return f{(index + 1) % count}(n - 1, k=k) if n else k\n"
        for index in range(count)
    )
    space: dict[str, Any] = {"__name__": "attacked"}
    exec(bodies, space)
    sys.setrecursionlimit(60_000)
    probes = [probe(space[f"f{index}"]) for index in range(count)]
    assert space["f0"](30_000, k=5) == 5
    assert sum(each.calls for each in probes) == 30_001
