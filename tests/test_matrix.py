"""Every kind of callable through every mechanism: same results, exact counts, everything measured."""

from __future__ import annotations

import gc
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from autoprof import session
from autoprof.gate import gate_of
from tests import mechanisms
from tests.callables import ROWS, Row
from tests.mechanisms import MECHANISMS, SPLICED, Loaded

Load = Callable[..., Loaded]
WRONG_ARGUMENTS = 3
"""Calls of "exceptions" that fail to bind: a wrapper counts them, the splice sees only calls that begin."""

BY_NAME = {row.name: row for row in ROWS}


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


def comparable(value: object) -> str:
    """Return a text without addresses and without the module's own name."""
    return re.sub(r"subject_\d+", "subject", re.sub(r"0x[0-9a-f]+", "0x", repr(value)))


@pytest.mark.parametrize("mechanism", MECHANISMS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_same_results_exact_counts(row: Row, mechanism: str, load: Load) -> None:
    expected = comparable(load("plain", row.source).run())
    loaded = load(mechanism, row.source)
    probes = {name: probe_or_none(loaded, name) for name in row.calls}
    at_definition = {name: probe.calls if probe else 0 for name, probe in probes.items()}
    first = comparable(loaded.run())
    again = comparable(loaded.run())
    assert first == expected
    if "defaults" not in row.calls:
        assert again == expected
    # A generator whose frame a swallowed exception keeps in a cycle ends, for us, when the cycle goes.
    gc.collect()
    for name, calls in row.calls.items():
        if (row.name, name) == ("exceptions", "fail") and mechanism not in SPLICED:
            calls += WRONG_ARGUMENTS
        probe = loaded.probe(name)
        defined = calls_while_defined(row, name, mechanism)
        assert at_definition[name] == defined, name
        assert probe.calls == 2 * (calls - calls_while_defined(row, name, "")) + defined, name
        nested = 2 * row.nested.get(name, 0)
        assert probe.skipped == ({"nested": nested} if nested else {}), name
        assert probe.profiled == probe.calls - nested, name


@pytest.mark.parametrize("mechanism", ["spliced_at_import", "spliced_live", "decorated_at_import"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_same_results_exact_counts_under_the_stopwatch(row: Row, mechanism: str, load: Load) -> None:
    """Every call is timed and slow: recursive ones too, since the stopwatch has no room to run out of."""
    expected = comparable(load("plain", row.source).run())
    loaded = load(mechanism, row.source, policy="profile_if_slow", threshold="0ms", rate=1.0)
    assert comparable(loaded.run()) == expected
    gc.collect()
    assert session.current is not None
    probes = session.current.installer.probes
    for name, calls in row.calls.items():
        if (row.name, name) == ("exceptions", "fail") and mechanism not in SPLICED:
            calls += WRONG_ARGUMENTS
        probe = probes[f"{loaded.name}:{name}", "profile_if_slow"]
        assert probe.calls == calls - calls_while_defined(row, name, "") + calls_while_defined(
            row, name, mechanism
        )
        nested = sum(probe.skipped.values())
        assert probe.slow == probe.profiled == probe.calls - nested, name
        assert not nested or mechanism not in SPLICED or any(each.generator_like for each in probe.gates), (
            name
        )


def probe_or_none(loaded: Loaded, name: str) -> Any:
    try:
        return loaded.probe(name)
    except KeyError:
        return None  # a nested function's decorator has not run yet


def calls_while_defined(row: Row, name: str, mechanism: str) -> int:
    """Return how many calls happen while the module is executed: a live splice comes too late for them."""
    if mechanism == "spliced_live":
        return 0
    return {"Tool.__init_subclass__": 1, "Field.__set_name__": 1}.get(name, 0)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_stop_gives_live_spliced_code_back(row: Row, load: Load) -> None:
    codes: dict[str, Any] = {}
    original = session.start

    def start(policy: Any) -> None:
        codes.update({name: each.__code__ for name, each in functions(module_named())})
        original(policy)

    def module_named() -> Any:
        import sys

        return next(module for name, module in sys.modules.items() if name.startswith("subject_"))

    session.start = start
    try:
        loaded = load("spliced_live", row.source)
    finally:
        session.start = original
    assert codes
    loaded.run()
    session.stop()
    for name, function in functions(loaded.module):
        if name in codes:
            assert function.__code__ is codes[name], name


def functions(module: Any) -> Iterator[tuple[str, FunctionType]]:
    for name, found in vars(module).items():
        if isinstance(found, FunctionType):
            yield name, found
        elif isinstance(found, type) and found.__module__ == module.__name__:
            for inner, each in vars(found).items():
                each = getattr(each, "__func__", each)
                if isinstance(each, FunctionType) and "<" not in each.__code__.co_filename:
                    yield f"{name}.{inner}", each


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_stop_leaves_working_functions(mechanism: str, load: Load) -> None:
    row = BY_NAME["generator"]
    expected = comparable(load("plain", row.source).run())
    loaded = load(mechanism, row.source)
    loaded.run()
    probe = loaded.probe("count")
    profiled = probe.profiled
    session.stop()
    assert comparable(loaded.run()) == expected
    assert probe.profiled == profiled
    assert probe.state == "removed"


@pytest.mark.parametrize("mechanism", SPLICED)
def test_stop_restores_code_that_runs_without_us(mechanism: str, load: Load) -> None:
    loaded = load(mechanism, BY_NAME["closure"].source)
    plain = load("plain", BY_NAME["closure"].source)
    advance, _ = loaded.counter(1)
    assert gate_of(advance.__code__) is not None
    session.stop()
    assert advance() == 2
    assert advance.__code__.co_code == plain.counter(1)[0].__code__.co_code


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_pickle_by_name(mechanism: str, load: Load) -> None:
    loaded = load(mechanism, BY_NAME["introspection"].source)
    assert pickle.loads(pickle.dumps(loaded.documented)) is loaded.documented
    assert pickle.loads(pickle.dumps(loaded.Widget.method)) is loaded.Widget.method


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_rate_zero_counts_only(mechanism: str, load: Load) -> None:
    if mechanism.startswith("decorator"):
        pytest.skip("the decorator's rate stands in the source")
    loaded = load(mechanism, BY_NAME["function"].source, rate=0)
    for _ in range(10):
        loaded.run()
    probe = loaded.probe("total")
    assert (probe.calls, probe.profiled) == (30, 0)
