"""Call sites must specialise for a function with a gate: that is what a closed gate's price rests on.

A fact of CPython 3.13 and later: one assignment of `f.__code__` clears the function's version for good, and no call
site specialises for it any more (31 → 36 ns a call), also not after the original code was put back. Code spliced before
the function is made, at import, is not touched by this; it is why import is the way and live splicing the exception.
"""

from __future__ import annotations

import dis
import sys
from typing import Any

import pytest

from .arena import attack, imported, made, probe, unprobe

LOSES_ITS_VERSION = sys.version_info >= (3, 13)
LOOP = "def loop(f, n=5000):\n for i in range(n): f(i)\n"


def called_by(function: Any) -> str:
    """Return the call instruction that a new loop over the function ends up with."""
    loop = made(LOOP, "loop")
    loop(function)
    loop(function)
    names = [each.opname for each in dis.get_instructions(loop, adaptive=True)]
    return [each for each in names if each.startswith("CALL")][-1]  # the first is that of `range`


def is_special(name: str) -> bool:
    return name not in ("CALL", "CALL_ADAPTIVE", "CALL_PY_GENERAL")


def plain(x: int) -> int:
    return x


@attack
@pytest.mark.parametrize("rate", [0.0, 0.0001])
def test_a_function_spliced_at_import_specialises(rate: float) -> None:
    module = imported("def f(x): return x\nclass C:\n def m(self, x): return x\n", rate=rate)
    assert is_special(called_by(plain))
    assert called_by(module.f) == called_by(plain)
    assert called_by(module.C().m) == called_by(lambda x, each=None: x) or is_special(called_by(module.C().m))


@attack
def test_the_body_of_a_spliced_function_specialises() -> None:
    module = imported("def f(n):\n total = 0\n for i in range(n): total += i * 2\n return total\n", rate=0.0)
    for _ in range(50):
        module.f(200)
    names = {each.opname for each in dis.get_instructions(module.f, adaptive=True)}
    assert any(each.startswith("BINARY_OP_") for each in names), names
    assert "FOR_ITER_RANGE" in names or sys.version_info < (3, 12), names
    assert "FOR_ITER_TUPLE" in names or sys.version_info < (3, 12), "the prologue's own look at the countdown"


@attack
def test_a_live_splice_costs_the_specialisation_on_newer_versions_only() -> None:
    assert is_special(called_by(plain))
    probe(plain, rate=0.0)
    assert is_special(called_by(plain)) is not LOSES_ITS_VERSION
    unprobe(plain)
    assert is_special(called_by(plain)) is not LOSES_ITS_VERSION
    again = made("def f(x): return x", "f")
    assert is_special(called_by(again)), "a function object made anew is as before"
