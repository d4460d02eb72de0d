"""All nine events of a real program: a policy file, a process of its own, receivers in a module it imports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoprof import events
from tests import guide
from tests.conftest import Environment

COMMON = {*events.metadata("stop", "m:f"), "user"}
SHAPES = ("plain", "waits", "gives", "gives_later")

# Every policy on every function; two strategies can't follow one call at once, so calls are counted by themselves.
POLICY = """
version: 1
env: prod
service: events
output: out
rewrite: BACKEND
reload: off
budget: off
load: off
rules:
  - {name: always, match: "shapes:*", policy: profile, rate: 1.0, interval: 1ms, metadata: {team: x}}
  - {name: slow, match: "shapes:*", policy: profile_if_slow, threshold: 5ms, rate: 1.0, env: [prod]}
  - {name: some, match: "shapes:*", policy: profile_production, sample_rate: 1.0}
  - {name: bytes, match: "shapes:*", policy: profile_memory, threshold: 0, env: [prod]}
  - {name: count, match: "shapes:*", policy: profile_calls, env: [prod]}
"""

SHAPES_PY = """
import asyncio
from time import perf_counter

kept = []

def _spin():
    kept.append(bytearray(b"x") * 4_000_000)
    end = perf_counter() + 0.03
    while perf_counter() < end:
        pass

def plain(fail=False):
    _spin()
    if fail: raise ValueError("plain")
    return 5

async def waits(fail=False):
    _spin()
    await asyncio.sleep(0)
    if fail: raise ValueError("waits")
    return "five"

def gives(fail=False):
    _spin()
    yield 1
    if fail: raise ValueError("gives")

async def gives_later(fail=False):
    _spin()
    yield 1
    if fail: raise ValueError("gives_later")
"""

RECEIVERS_PY = """
import json
from autoprof import signals
NAMES = "start stop exception sample slow_operation production memory calls complete".split()
file = open("events.jsonl", "a")

def receive(sender, *, measurements, metadata):
    file.write(json.dumps([metadata["event"], sender, measurements, metadata], default=repr) + "\\n")
    file.flush()

for name in NAMES:
    getattr(signals, name).connect(receive)
"""

APP_PY = """
import asyncio
import receivers
import shapes

async def main(fail):
    try:
        await shapes.waits(fail)
    except ValueError: pass
    try:
        async for _ in shapes.gives_later(fail): pass
    except ValueError: pass

for fail in (False, True):
    try:
        shapes.plain(fail)
    except ValueError: pass
    try:
        for _ in shapes.gives(fail): pass
    except ValueError: pass
    asyncio.run(main(fail))
print("done")
"""

Sent = tuple[str, str, dict[str, Any], dict[str, Any]]
# A spliced function is called once and returns a coroutine; a wrapper sees what the coroutine gives in the end.
RESULTS = {
    "splice": {"plain": "int", "waits": "coroutine", "gives": "generator", "gives_later": "async_generator"},
    "decorate": {"plain": "int", "waits": "str", "gives": "NoneType", "gives_later": "NoneType"},
}


@pytest.fixture(scope="module", params=["splice", "decorate"])
def sent(request: pytest.FixtureRequest, environment: Environment, tmp_path_factory: Any) -> list[Sent]:
    """The events of one run of the program."""
    folder: Path = tmp_path_factory.mktemp("events")
    files = {"policy.yaml": POLICY.replace("BACKEND", request.param), "shapes.py": SHAPES_PY,
             "receivers.py": RECEIVERS_PY, "app.py": APP_PY}  # fmt: skip
    for name, text in files.items():
        (folder / name).write_text(text)
    done = environment.run("app.py", cwd=folder, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)
    return [tuple(json.loads(line)) for line in (folder / "events.jsonl").read_text().splitlines()]


def shape_of(event: str) -> tuple[set[str], set[str]]:
    """Return the measurements and the metadata that the guide's page gives an event."""
    (row,) = [row for row in guide.rows() if row.cells.get("event") == event]
    names = [set(row.cells[column].strip("`").split()) for column in ("measurements", "more metadata")]
    return names[0], names[1]


def of(sent: list[Sent], event: str, function: str, policy: str | None = None) -> list[Sent]:
    return [
        each for each in sent
        if each[:2] == (event, f"shapes:{function}") and policy in (None, each[3]["policy"])
    ]  # fmt: skip


@pytest.mark.parametrize("function", SHAPES)
def test_all_nine_events_of_a_real_program(function: str, sent: list[Sent]) -> None:
    for event in events.NAMES[:9]:
        found = of(sent, event, function)
        assert found, f"no {event} of {function}"
        measurements, more = shape_of(event)
        for _, target, measured, metadata in found:
            assert set(measured) == measurements
            assert set(metadata) == COMMON | more
            assert (metadata["event"], metadata["target"]) == (event, target)
            assert (metadata["module"], metadata["function"]) == ("shapes", function)
            assert (metadata["env"], metadata["service"]) == ("prod", "events")
            assert metadata["pid"] > 0 and metadata["thread"] != 0
            assert metadata["user"] == ({"team": "x"} if metadata["policy"] == "profile" else {})


@pytest.mark.parametrize("function", SHAPES)
def test_what_the_events_say(function: str, sent: list[Sent], request: pytest.FixtureRequest) -> None:
    for start in of(sent, "start", function, "profile"):
        assert start[2]["system_time"] > 1_600_000_000_000_000_000
        assert start[3]["opts"]["rate"] == 1.0
    (stop,) = of(sent, "stop", function, "profile")
    assert stop[2]["duration_ns"] >= 30_000_000
    backend = request.node.callspec.params["sent"]
    assert stop[3]["result"] == RESULTS[backend][function] and stop[3]["rule"] == "always"
    (failed,) = of(sent, "exception", function, "profile")
    assert failed[3]["kind"] == "ValueError" and failed[3]["reason"] == f"ValueError('{function}')"
    assert failed[3]["stacktrace"][-1][2] == function and failed[2]["duration_ns"] >= 30_000_000
    assert sum(each[2]["samples"] for each in of(sent, "sample", function, "profile")) >= 1
    slow = of(sent, "slow_operation", function)
    assert [(each[2]["threshold_ns"], each[3]["profiled"]) for each in slow] == [(5_000_000, True)] * 2
    assert [each[2]["duration_ns"] >= 30_000_000 for each in of(sent, "production", function)] == [True] * 2


@pytest.mark.parametrize("function", SHAPES)
def test_what_memory_calls_and_complete_say(function: str, sent: list[Sent]) -> None:
    for _, _, measured, _ in of(sent, "memory", function):
        assert measured["delta"] == measured["after"] - measured["before"] > 0
        assert {"rss_bytes", "gc_allocations"} <= set(measured["types"])
        assert set(measured["types"]["rss_bytes"]) == {"before", "after", "delta"}
    for _, _, measured, metadata in of(sent, "calls", function):
        assert measured["calls"] == 1
        assert metadata["callees"]["shapes:_spin"] == 1
    complete = {each[3]["policy"]: each[2] for each in of(sent, "complete", function)}
    assert set(complete) == {
        "profile",
        "profile_if_slow",
        "profile_production",
        "profile_memory",
        "profile_calls",
    }
    assert complete["profile"]["samples"] >= 1 and complete["profile"]["memory_delta"] is None
    assert complete["profile_memory"]["memory_delta"] > 0 and complete["profile_memory"]["samples"] is None
    assert all(each["duration_ns"] >= 30_000_000 for each in complete.values())


@pytest.mark.parametrize("function", SHAPES)
def test_the_order_of_the_events_of_a_call(function: str, sent: list[Sent]) -> None:
    for policy, own in {
        "profile": [], "profile_production": ["production"], "profile_memory": ["memory"], "profile_calls": ["calls"],
    }.items():  # fmt: skip
        names = [each[0] for each in sent if each[1] == f"shapes:{function}" and each[3]["policy"] == policy]
        names = [name for name in names if name != "sample"]
        assert names == ["start", "stop", *own, "complete", "start", "exception", *own, "complete"]
    names = [each[0] for each in sent
             if each[1] == f"shapes:{function}" and each[3]["policy"] == "profile_if_slow"]  # fmt: skip
    wanted = ["stop", "slow_operation", "complete", "exception", "slow_operation", "complete"]
    assert [name for name in names if name != "sample"] == wanted
