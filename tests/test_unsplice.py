"""Original code back out of spliced code, and only where it is of that gate."""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType

import pytest

from autoprof import calls
from autoprof.gate import GENERATOR_LIKE
from autoprof.inline import InlineGate
from autoprof.rewrite import table
from autoprof.rewrite.splice import splice
from autoprof.rewrite.tree import is_function
from autoprof.rewrite.unsplice import unsplice
from tests import stdlib_codes

pytestmark = pytest.mark.skipif(table.VERSION not in table.VERIFIED, reason="the splice is not verified here")


def _functions(code: CodeType) -> Iterator[CodeType]:
    for const in code.co_consts:
        if type(const) is CodeType:
            yield from _functions(const)
            if is_function(const):
                yield const


PARTS = (
    "co_code",
    "co_names",
    "co_linetable",
    "co_exceptiontable",
    "co_stacksize",
    "co_varnames",
    "co_cellvars",
)


def test_unsplice_gives_back_every_function_of_the_standard_library() -> None:
    count = 0
    for name, _, module in stdlib_codes.modules():
        for code in _functions(module):
            if code.co_flags & GENERATOR_LIKE:
                continue
            gate = InlineGate(calls.first, lambda *_: None, lambda *_: None)
            back = unsplice(splice(code, gate), gate, code.co_stacksize)
            assert back == code, (name, code.co_qualname)
            for part in PARTS:
                assert getattr(back, part) == getattr(code, part), (name, code.co_qualname, part)
            assert len(back.co_consts) == len(code.co_consts)
            assert all(one is other for one, other in zip(back.co_consts, code.co_consts, strict=True))
            count += 1
    assert count > 5_000


def test_unsplice_refuses_what_is_not_of_that_gate() -> None:
    def f(x: int) -> int:
        return x

    def gen() -> Iterator[int]:
        yield 1

    gate, other = (InlineGate(calls.first, lambda *_: None, lambda *_: None) for _ in range(2))
    spliced = splice(f.__code__, gate)
    for code, wrong in ((spliced, other), (f.__code__, gate), (splice(gen.__code__, gate), gate)):
        with pytest.raises(ValueError, match="original code"):
            unsplice(code, wrong, 3)
    with pytest.raises(ValueError, match="prologue"):
        unsplice(f.__code__.replace(co_consts=spliced.co_consts, co_names=spliced.co_names), gate, 3)
