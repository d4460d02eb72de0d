"""Gaps of a run and more lend the inner call its step with the claim: what is counted when it isn't taken."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import calls, guard, inline
from autoprof.gate import CLAIMED, LENT
from autoprof.inline import RUN, InlineGate
from tests import mechanisms
from tests.mechanisms import Loaded
from tests.spliced import call_from_threads

GAPS = [RUN, RUN + 1, 2 * RUN - 1, 2 * RUN, 5 * RUN + 7]
SOURCE = """
def f(act=None):
    return act() if act else 1
def g():
    yield 1
"""


@pytest.fixture
def module(tmp_path: Path) -> Iterator[Loaded]:
    for load in mechanisms.loads(tmp_path):
        loaded = load("spliced_at_import", SOURCE, rate=0.001)
        loaded.f()  # the probes are made now
        list(loaded.g())
        for name in "fg":
            loaded.probe(name).profiled = 0  # one in a thousand of these calls is sampled
        yield loaded


@pytest.fixture
def opens(module: Loaded, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], InlineGate]:
    """Have the gate open for the next call, and draw the same gap each time."""

    def open_(gap: int, name: str = "f") -> InlineGate:
        monkeypatch.setattr(inline, "draw_gap", lambda scale: gap)
        (gate,) = module.probe(name).gates
        gate.swap(0)
        return gate

    return open_


def nothing(*_: Any) -> None:
    """Be what is not called here."""


def raising(error: type[BaseException]) -> Callable[..., None]:
    """Return what raises it, whatever it is called with."""

    def fail(*_: Any) -> None:
        raise error("injected")

    return fail


@pytest.mark.parametrize("gap", [0, 1, RUN - 1, *GAPS])
def test_only_long_gaps_lend_with_the_claim(gap: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "draw_gap", lambda scale: gap)
    made = InlineGate(nothing, nothing, nothing)
    claimed = made.claim(True)
    assert claimed == (LENT if gap >= RUN else CLAIMED)
    assert made.calls == (claimed == CLAIMED)
    if claimed == CLAIMED:
        made.lend()
    assert [made.step() for _ in range(gap + 2)] == [True] * (gap + 1) + [False]
    assert made.calls == gap + 1, "the call that claimed is the first of the steps"


@pytest.mark.parametrize("gap", GAPS)
def test_the_calls_after_a_sampled_one_are_the_gap(module: Any, opens: Any, gap: int) -> None:
    gate, probe = opens(gap), module.probe("f")
    before = probe.calls
    for number in range(3 * (gap + 1)):
        assert module.f() == 1
        assert probe.calls == before + number + 1
        assert probe.profiled == number // (gap + 1) + 1
    assert not probe.skipped and gate.calls == probe.calls


@pytest.mark.parametrize("gap", [1, 2, RUN - 1, *GAPS])
def test_a_call_that_is_skipped_is_counted_once(module: Any, opens: Any, gap: int) -> None:
    opens(gap)
    probe = module.probe("f")
    before = probe.calls

    def inside() -> int:
        opens(gap)
        return int(module.f())

    assert module.f(inside) == 1
    assert (probe.calls, probe.profiled, probe.skipped) == (before + 2, 1, {"nested": 1})
    for _ in range(gap):
        module.f()
    assert (probe.calls, probe.profiled) == (before + 2 + gap, 1)
    module.f()
    assert (probe.calls, probe.profiled) == (before + 3 + gap, 2), "the one after the gap that was drawn"
    module.f()
    assert (probe.calls, probe.profiled) == (before + 4 + gap, 2), "and no more"


@pytest.mark.parametrize("reason", [None, "busy"])
def test_a_generator_is_counted_once(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, reason: str | None
) -> None:
    opens(RUN, "g")
    probe = module.probe("g")
    before = probe.calls
    with monkeypatch.context() as patch:
        if reason:
            patch.setattr(calls, "_why_not", lambda *_: reason)
        assert list(module.g()) == [1]
    assert (probe.calls, probe.profiled) == (before + 1, 0 if reason else 1)
    assert list(module.g()) == [1] and probe.calls == before + 2


@pytest.mark.parametrize("error", [ValueError, RecursionError, MemoryError])
@pytest.mark.parametrize("name", ["_why_not", "_take_off"])
def test_a_call_whose_begin_fails_is_counted_once(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception]
) -> None:
    opens(RUN)
    probe = module.probe("f")
    before = probe.calls

    with monkeypatch.context() as patch:
        patch.setattr(calls, name, raising(error))
        patch.setattr(guard, "report", nothing)
        assert module.f() == 1
    assert probe.calls == before + 1 and probe.profiled == 0
    for number in range(RUN):
        module.f()
        assert probe.calls == before + 2 + number and probe.profiled == 0
    module.f()
    assert probe.profiled == (error is ValueError), "what the prologue itself counts leaves its step to the gap"
    module.f()
    assert probe.calls == before + 3 + RUN and probe.profiled == 1


@pytest.mark.parametrize("error", [ValueError, RecursionError])
def test_a_call_that_fails_while_it_is_skipped_is_counted_once(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    opens(RUN)
    probe = module.probe("f")
    before = probe.calls

    with monkeypatch.context() as patch:
        patch.setattr(calls, "_why_not", lambda *_: "busy")
        patch.setattr(calls, "_decline", raising(error))
        patch.setattr(guard, "report", nothing)
        assert module.f() == 1
    assert probe.calls == before + 1 and probe.profiled == 0
    module.f()
    assert probe.calls == before + 2


@pytest.mark.parametrize("name", ["_why_not", "_take_off"])
def test_an_interrupted_begin_counts_nothing(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    opens(RUN)
    probe = module.probe("f")
    before = probe.calls

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(calls, name, raising(KeyboardInterrupt))
        module.f()
    assert probe.calls == before, "its body never came to run"
    module.f()
    assert probe.calls == before + 1


@pytest.mark.parametrize("size", [0, 3, RUN, 7 * RUN])
def test_another_gap_while_a_step_is_lent_loses_no_call(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    gate, probe = opens(RUN), module.probe("f")
    before = probe.calls
    real = calls._take_off

    def meanwhile(*given: Any) -> Any:
        gate.swap(size)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(calls, "_take_off", meanwhile)
        assert module.f() == 1
    assert (probe.calls, probe.profiled) == (before + 1, 1)
    assert probe.skipped == ({} if size else {"nested": 1}), "where the new gap is none, the inner call finds it open"


@pytest.mark.parametrize("others", [1, RUN, RUN + 1, RUN + 2])
def test_calls_of_others_before_the_inner_one_are_counted(
    module: Any, opens: Any, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """They take the lent step, too: where none is left, the inner call finds the gate open."""
    gate, probe = opens(RUN), module.probe("f")
    before = probe.calls
    real = calls._take_off
    came: list[bool] = []

    def meanwhile(*given: Any) -> Any:
        came.extend(gate.step() for _ in range(others))
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(calls, "_take_off", meanwhile)
        assert module.f() == 1
    assert came == ([True] * (RUN + 1) + [False])[:others], "who finds it open is counted by its own claim"
    assert (probe.calls, probe.profiled) == (before + 1 + sum(came), 1)
    assert probe.skipped == ({"nested": 1} if others > RUN else {})


@pytest.mark.skipif(sys.platform == "emscripten", reason="no threads in WebAssembly")
def test_threads_that_take_what_was_lent_are_counted(module: Any) -> None:
    probe = module.probe("f")
    before, count = probe.calls, 40 * RUN
    call_from_threads(lambda _: module.f(), 6, count)
    assert probe.calls == before + 6 * count
    assert probe.profiled + sum(probe.skipped.values()) > 0
