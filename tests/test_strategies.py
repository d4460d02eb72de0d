"""What a call owes the strategies that measure it, when some of them can't or an interrupt comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import calls, flight, guard, session, testing
from autoprof.probe import Busy, Probe
from tests import mechanisms
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
SOURCE = "def f(x=1):\n    return x\n"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


def test_a_busy_strategy_leaves_the_call_to_the_other_policies(load: Load, tmp_path: Path) -> None:
    start = mechanisms.policy("subject_two", str(tmp_path / "out"))
    start["rules"].append({"match": "subject_two:f", "policy": "profile_production", "sample_rate": 1.0})
    module = mechanisms.spliced_at_import(SOURCE, "subject_two", start)
    try:
        assert session.current is not None
        found = session.current.installer.probes
        full, other = found["subject_two:f", "profile"], found["subject_two:f", "profile_production"]

        class Full:
            name = "full"

            def start(self, probe: Probe, flight: Any) -> Any:
                raise Busy("full")

        full.strategy = Full()  # type: ignore[assignment]
        assert module.f(3) == 3
        assert (full.calls, full.profiled, full.skipped) == (1, 0, {"busy": 1})
        assert not full.busy
        assert (other.calls, other.profiled, other.skipped) == (1, 1, {})
    finally:
        del sys.modules["subject_two"]


@pytest.mark.parametrize("broken", ["wake", "later"])
def test_an_interrupt_in_begin_stops_what_has_started(
    load: Load, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    module = load("spliced_at_import", SOURCE)
    probe = module.probe("f")
    started: list[bool] = []
    stopped: list[bool] = []

    class Counting:
        name = "counting"

        def start(self, probe: Probe, flight: Any) -> Any:
            started.append(True)
            return "state"

        def stop(self, probe: Probe, flight: Any, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
            stopped.append(kept)
            return {}

    def interrupt(*_: object) -> None:
        if started:
            raise KeyboardInterrupt

    probe.strategy = Counting()  # type: ignore[assignment]
    if broken == "wake":
        monkeypatch.setattr(calls.recorder, "idle", True)
        monkeypatch.setattr(calls.recorder, "wake", interrupt)
    else:
        probe.busy = type("Broken", (set,), {"add": interrupt})()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        module.f()
    assert (started, stopped) == ([True], [False])
    assert not flight.in_flight


def test_a_call_of_the_function_while_its_strategy_starts_leaves_the_outer_call_the_outermost(load: Load) -> None:
    """A finalizer may make one: a strategy that looks at memory collects garbage."""
    module = load("spliced_at_import", "def f(act=None):\n    return act() if act else 1\n")
    probe = module.probe("f")
    began: list[int] = []

    class Calling:
        name = "calling"

        def start(self, probe: Probe, flight: Any) -> Any:
            began.append(1)
            if len(began) == 1:
                assert module.f() == 1

        def stop(self, probe: Probe, flight: Any, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
            return {}

    probe.strategy = Calling()  # type: ignore[assignment]
    assert module.f(module.f) == 1
    assert (probe.calls, len(began)) == (3, 2)
    assert (probe.profiled, probe.skipped) == (2, {"nested": 1}) and not probe.busy


def test_the_name_of_what_is_returned_is_not_asked_of_its_metaclass(load: Load) -> None:
    module = load("spliced_at_import", SOURCE)

    class Meta(type):
        __name__ = property(lambda cls: 1 / 0)  # type: ignore[assignment]

        def __bool__(cls) -> bool:
            raise ZeroDivisionError

    class Odd(metaclass=Meta):
        pass

    with testing.capture("stop") as events:
        assert type(module.f(Odd())) is Odd
    assert [each.metadata["result"] for each in events] == ["Odd"] and not guard.internal_errors
