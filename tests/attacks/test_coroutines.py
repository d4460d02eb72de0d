"""Everything a coroutine, generator or async generator shows and does, plain and with every call measured."""

from __future__ import annotations

import gc
import sys
from typing import Any

import pytest

from .arena import assert_same, attack, probe
from .coroutine_cases import CASES
from .coroutine_specimens import Specimens


def outcome(function: Any, specimens: Specimens) -> str:
    try:
        return repr(function(specimens))
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"


def battery(specimens: Specimens) -> dict[str, str]:
    return {name: outcome(function, specimens) for name, function in CASES.items()}


def dressed(function: Any) -> Any:
    probe(function)
    return function


@attack
@pytest.mark.parametrize("debug", [False, True])
def test_every_case_is_the_same_as_plain(debug: bool) -> None:
    if debug:
        import os

        os.environ["PYTHONASYNCIODEBUG"] = "1"
        import logging

        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    plain_battery = battery(Specimens(lambda function: function))
    specimens = Specimens(dressed)
    for _ in range(3):
        assert_same(plain_battery, battery(specimens))
    assert not any(each.startswith("raised ") for each in plain_battery.values()), plain_battery


@attack
def test_every_call_of_the_cases_is_measured_and_ended() -> None:
    from autoprof import flight, session

    specimens = Specimens(dressed)
    for _ in range(3):
        battery(specimens)
    del specimens
    gc.collect()
    assert session.current is not None
    probes = list(session.current.installer.probes.values())
    assert sum(each.profiled for each in probes) > 100
    for each in probes:
        skipped = sum(each.skipped.values())
        assert each.profiled + skipped == each.calls, (each.target, each.profiled, each.skipped, each.calls)
        # On 3.11 calls decline while the origins of coroutines are tracked.
        assert set(each.skipped) <= ({"other_profiler"} if sys.version_info < (3, 12) else set()), (
            each.skipped
        )
    assert not flight.afloat and not flight.in_flight
