"""A module under a budget, and its reckoning by hand: what the tests of the budget share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import budget, calibration, session, testing, wiring
from autoprof.budget import Budget
from autoprof.probe import IF_SLOW, Probe
from tests import mechanisms
from tests.mechanisms import Loaded

BOTH = ["spliced_at_import", "decorated_at_import"]
SOURCE = "def f(x=1, *, act=None):\n    if act: act()\n    return x\n"


@pytest.fixture
def load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_flushes: None
) -> Iterator[Callable[..., Loaded]]:
    """Load under a budget.

    Its ticks come from the test alone, and the prices are the usual ones.
    """
    monkeypatch.setattr(calibration, "calibrate", lambda installer: None)
    monkeypatch.setattr(wiring.Session, "_reckon", lambda self: None)
    before = mechanisms.policy

    def policy(*arguments: Any, **options: Any) -> dict[str, Any]:
        share = options.pop("budget", "1%")
        kind = options.pop("kind", "profile")
        made = before(*arguments, **options)
        made["budget"] = share
        made["rules"][0]["policy"] = kind
        if kind == IF_SLOW:
            made["rules"][0] |= {"env": ["dev"]}
        return made

    monkeypatch.setattr(mechanisms, "policy", policy)
    yield from mechanisms.loads(tmp_path)


@pytest.fixture(params=BOTH)
def loaded(request: pytest.FixtureRequest, load: Any) -> Callable[..., Loaded]:
    return lambda source=SOURCE, **options: load(request.param, source, **options)


def the_budget() -> Budget:
    assert session.current is not None
    return session.current.budget


def reckon(clock: testing.FakeClock, s: float = 1.0) -> None:
    """Let time pass and reckon; whatever the real sampler and writer have used meanwhile."""
    clock.advance(s=s)
    the_budget().tick()


def purse_at_start() -> float:
    return budget.ADVANCE_S * 0.01 * 1e9


def slow_module(load: Any, **options: Any) -> tuple[Loaded, Probe]:
    module = load("spliced_at_import", SOURCE, kind=IF_SLOW, threshold="100ms", **options)
    assert session.current is not None
    return module, session.current.installer.probes[f"{module.name}:f", IF_SLOW]
