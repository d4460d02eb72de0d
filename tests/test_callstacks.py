"""The stacks of one call, added up as they come."""

from __future__ import annotations

import pytest

from autoprof import callstacks
from autoprof.callstacks import CallStacks


def test_looks_at_one_stack_add_up() -> None:
    stacks = CallStacks(1, 2)
    assert not stacks.knows((2, 1))
    stacks.name((2, 1), [(None, "leaf"), (None, "root")])
    assert stacks.knows((2, 1))
    stacks.count((2, 1), 10)
    stacks.count((2, 1), 5)
    assert stacks.totals() == {("root", "leaf"): (2, 15)}
    assert (stacks.samples, stacks.dropped) == (2, 0)


def test_our_own_frames_are_left_out_and_alone_count_for_nothing() -> None:
    stacks = CallStacks(1, 2)
    stacks.name((1,), [(None, "")])
    stacks.count((1,), 10)
    stacks.name((3, 2), [(None, ""), (None, "root")])
    stacks.count((3, 2), 10)
    stacks.name((2,), [(None, "root")])
    stacks.count((2,), 10)
    assert stacks.totals() == {("root",): (2, 20)}
    assert stacks.samples == 2


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callstacks, "STACKS_KEPT", 2)
    stacks = CallStacks(1, 2)
    for key in range(1, 5):
        stacks.name((key,), [(None, str(key))])
        stacks.count((key,), 1)
    assert set(stacks.totals()) == {("1",), ("2",)}
    assert (stacks.samples, stacks.dropped) == (4, 2)
