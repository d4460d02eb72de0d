"""Signatures and bodies of every size: stack, operands and jumps of the prologue must grow with them."""

from __future__ import annotations

import pytest

from .arena import attack, made, probe

ARGUMENTS = (0, 1, 50, 120, 200, 254, 255, 256, 300, 1000)
KEYWORDS = (1, 30, 60, 120, 255, 256, 300)
CONSTANTS = (200, 254, 255, 256, 257, 400, 70_000)
CELLS = (1, 5, 10, 12, 20, 40, 100, 200, 254, 255, 256, 300)


def names(count: int, prefix: str = "v") -> list[str]:
    return [f"{prefix}{index}" for index in range(count)]


@attack
def test_positional_arguments_of_any_number() -> None:
    for count in ARGUMENTS:
        source = f"def f({', '.join(names(count))}): return [{', '.join(names(count))}]"
        function = made(source, "f")
        seen = probe(function)
        for _ in range(3):
            assert function(*range(count)) == list(range(count)), count
        assert seen.profiled == 3


@attack
def test_keyword_only_arguments_of_any_number() -> None:
    for count in KEYWORDS:
        source = f"def f(*, {', '.join(names(count))}): return [{', '.join(names(count))}]"
        function = made(source, "f")
        seen = probe(function)
        for _ in range(3):
            given = {name: index for index, name in enumerate(names(count))}
            assert function(**given) == list(range(count)), count
        assert seen.profiled == 3


@attack
def test_every_kind_of_argument_together() -> None:
    for count in (1, 40, 256):
        some, keys = names(count, "a"), names(count, "k")
        values = f"[{', '.join(some + keys)}], rest, more"
        function = made(f"def f({', '.join(some)}, *rest, {', '.join(keys)}, **more): return {values}", "f")
        seen = probe(function)
        given = {key: count + index for index, key in enumerate(keys)}
        for _ in range(3):
            got = function(*range(count), "r", "s", **given, other=1)
            assert got == (list(range(2 * count)), ("r", "s"), {"other": 1})
        assert seen.profiled == 3


@attack
def test_constants_of_any_number() -> None:
    for count in CONSTANTS:
        body = ", ".join(f"'c{index}', x" for index in range(count))
        function = made(f"def f(*, key=7):\n return [{body}][-2:], key", "f", x=1)
        seen = probe(function)
        for _ in range(2):
            assert function() == ([f"c{count - 1}", 1], 7), count
        assert seen.profiled == 2


@attack
def test_attribute_names_of_any_number() -> None:
    class Anything:
        def __getattr__(self, name: str) -> str:
            return name

    for count in CONSTANTS:
        body = "\n".join(f" o.n{index}" for index in range(count))
        function = made(f"def f(o):\n{body}\n return o.n{count - 1}", "f")
        seen = probe(function)
        for _ in range(2):
            assert function(Anything()) == f"n{count - 1}", count
        assert seen.profiled == 2


@attack
@pytest.mark.parametrize("count", CELLS)
def test_free_variables_of_any_number_at_every_place_of_the_data_stack(count: int) -> None:
    """Too small a stack is silent until a frame ends where a chunk of the data stack ends."""
    import sys

    cells = "".join(f" v{index} = {index}\n" for index in range(count))
    body = f"  if a < 0: return [{', '.join(names(count))}]\n  return a + v{count - 1}\n"
    function = made(f"def outer():\n{cells} def f(a):\n{body} return f\n", "outer")()
    seen = probe(function)

    def deep(levels: int) -> object:
        return function(3) if levels == 0 else deep(levels - 1)

    sys.setrecursionlimit(4000)
    deepest = 900
    for levels in range(deepest):
        assert deep(levels) == 2 + count, levels
    assert function(-1) == list(range(count))
    assert seen.profiled == deepest + 1


@attack
def test_free_variables_beside_cells_arguments_and_generators() -> None:
    source = """
def outer(x, y):
    def f(a, b=2, *rest, c, **more):
        def inner():
            nonlocal a, x
            a += 1; x += 1
            return a, b, c, x, y, rest, more
        yield inner()
        yield inner()
    return f
"""
    function = made(source, "outer")(10, 20)
    seen = probe(function)
    assert list(function(1, 3, 4, c=5, d=6)) == [
        (2, 3, 5, 11, 20, (4,), {"d": 6}),
        (3, 3, 5, 12, 20, (4,), {"d": 6}),
    ]
    assert list(function(1, c=0))[-1] == (3, 2, 0, 14, 20, (), {})
    assert seen.profiled == 2


@attack
def test_the_body_keeps_its_own_exception_table_and_long_jumps() -> None:
    filler = "\n".join(f"            total += x * {index}.5" for index in range(3000))
    source = f"""
def f(x, fail):
    total = 0
    for _ in range(2):
        try:
{filler}
            if fail: raise KeyError(x)
        except KeyError as error:
            total = error.args[0]
        finally:
            x += 1
    return total
"""
    plain, function = made(source, "f"), made(source, "f")
    seen = probe(function)
    for fail in (False, True):
        assert function(1, fail) == plain(1, fail)
    assert seen.profiled == 2
