"""What a sound prologue needs: each rule is taken out, and something must break.

A rule is a function with one argument: whether the rule is broken. Each runs in a child as it is, where it must
pass, and broken, where it must crash the interpreter or fail an assertion. A rule that makes no difference any more
is one that can go, or one that nothing watches over. The numbers are those of the design.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from .arena import probe, send

VERSION = sys.version_info[:2]
V311, V312, V313 = (3, 11), (3, 12), (3, 13)
ALL = (V311, V312, V313)

Rule = Callable[[bool], None]
RULES: dict[str, dict[str, tuple[tuple[tuple[int, int], ...], str]]] = {}
"""Module → rule → the versions its lack is seen on, and why not on the others."""


def rule(*shown_on: tuple[int, int], why_not: str = "") -> Callable[[Rule], Rule]:
    """Register a rule: the versions its lack is seen on, and why not on the others."""

    def register(function: Rule) -> Rule:
        assert set(shown_on) == set(ALL) or why_not
        RULES.setdefault(function.__module__, {})[function.__name__] = shown_on, why_not
        return function

    return register


def judged(module: str) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """Return the two tests of a module's rules: each holds as it is, and broken it must break something."""
    names = pytest.mark.parametrize("name", sorted(RULES[module]))

    @names
    def holds(name: str) -> None:
        outcome = send(module, name, {"broken": False})
        assert outcome.status == 0, outcome.tell()

    @names
    def breaks(name: str) -> None:
        shown_on, why_not = RULES[module][name]
        if VERSION not in shown_on:
            pytest.skip(f"not seen on this version: {why_not}")
        outcome = send(module, name, {"broken": True})
        # A failure of the test's own making (a name that has moved) is none of the rule's.
        own = any(each in outcome.errors for each in ("any more", "ImportError", "NameError: "))
        assert (outcome.crashed or outcome.status == 1) and not own, outcome.tell()

    return holds, breaks


def patch(place: Any, name: str, value: Any) -> None:
    """Replace what is there; a rule whose place has moved must be looked for, not passed over."""
    from autoprof.rewrite import splice, stopwatch

    assert hasattr(place, name), f"{place} has no {name} any more"
    setattr(place, name, value)
    splice._templates.clear()
    splice._fronts.clear()
    stopwatch._pieces.clear()


def without(part: list[Any], *dropped: Any) -> list[Any]:
    """Return instructions less the given ones; a call of an opcode's name drops every such."""
    left = [each for each in part if each not in dropped and each[0] not in dropped]
    assert len(left) < len(part)
    return left


def patch_part(name: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Replace one part of the prologue by what `change` makes of it."""
    from autoprof.rewrite import prologue

    real = getattr(prologue._Writer, name)
    patch(prologue._Writer, name, lambda self: change(real(self)))


def start() -> None:
    """Have the session's self-test over before anything is broken."""

    def nothing() -> None:
        pass

    probe(nothing)
