"""The strategies call_graph, fprof, eprof and cprof: their files and events."""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprof import artefacts, guard, session, testing
from autoprof.probe import Probe
from tests import mechanisms
from tests.call_graphs import BACK_ENDS, MS, SOURCE, Make, makes, measured

STRATEGIES = ("call_graph", "fprof", "eprof", "cprof")


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_complete_names_the_file(make: Make, strategy: str) -> None:
    shop = make(strategy)
    with testing.capture() as events:
        measured(shop)
    (path,) = shop.files()
    assert events.names == ["start", "stop", "complete"]
    complete = events[-1]
    assert complete.metadata["profile"] == str(path)
    assert (complete.metadata["strategy"], complete.measurements["samples"]) == (strategy, None)
    assert re.fullmatch(rf"{strategy}-subject_graph-work-[0-9a-f]{{8}}-{os.getpid()}\.txt", path.name)
    assert path.stat().st_mode & 0o777 == 0o600 or os.name != "posix"
    assert "subject_graph:helper" in path.read_text()


def rows(text: str) -> list[list[str]]:
    return [re.split(r" {2,}", line.strip()) for line in text.splitlines()]


def test_call_graph_says_who_called_whom(make: Make) -> None:
    text = measured(make()).text()
    assert text.startswith("subject_graph:work, one call\n1 call followed, 9.000 ms in all, ")
    place = "(/nowhere/subject_graph.py:%d)"
    work, step, helper = (
        f"subject_graph:{name} {place % line}" for name, line in (("work", 2), ("step", 7), ("helper", 10))
    )
    assert ["3", "6.000", "9.000", f"{work} -> {step}"] in rows(text)
    assert ["3", "3.000", "3.000", f"{step} -> {helper}"] in rows(text)
    assert ["3", "0.000", "0.000", f"{helper} -> builtins:len"] in rows(text)
    assert ["1", "0.000", "9.000", work] in rows(text)


def test_fprof_has_callers_above_and_callees_below(make: Make) -> None:
    text = measured(make("fprof")).text()
    (block,) = [each for each in text.split("\n\n") if "% subject_graph:step" in each]
    assert [line.split()[:5] for line in block.splitlines()[1:]] == [
        ["3", "6.000", "9.000", "from", "subject_graph:work"],
        ["3", "6.000", "9.000", "%", "subject_graph:step"],
        ["3", "3.000", "3.000", "to", "subject_graph:helper"],
    ]


def test_eprof_has_the_time_of_each_function_itself(make: Make) -> None:
    text = measured(make("eprof")).text()
    found = [line.split()[:5] for line in text.splitlines()[4:6]]
    assert found == [
        ["3", "66.7%", "6.000", "2,000.00", "subject_graph:step"],
        ["3", "33.3%", "3.000", "1,000.00", "subject_graph:helper"],
    ]


@pytest.mark.usefixtures("no_flushes")
def test_cprof_has_counts_and_no_times(make: Make) -> None:
    shop = measured(make("cprof"), calls=2)
    text = shop.text()
    assert " ms" not in text
    assert ["6", "subject_graph:helper (/nowhere/subject_graph.py:10)"] in rows(text)
    assert ["6", "builtins:len"] in rows(text)
    assert shop.probe.take_callees() == {
        "subject_graph:step": 6,
        "subject_graph:helper": 6,
        "subject_graph:negative": 6,
        "builtins:len": 6,
        "builtins:sorted": 2,
    }


def test_cprofs_counts_reach_the_report(make: Make, tmp_path: Path) -> None:
    from autoprof import cli

    measured(make("cprof"), calls=2)
    session.stop()
    out = tmp_path / "report.json"
    assert cli.main(["report", str(tmp_path / "out"), "--format", "json", "-o", str(out)]) == 0
    (probe,) = json.loads(out.read_text())["probes"]
    assert probe["callees"]["subject_graph:helper"] == 6


def test_one_file_holds_the_sum_of_the_calls(make: Make) -> None:
    shop = measured(make(format="json"), calls=5)
    document = json.loads(shop.text())
    assert (document["measured_calls"], document["title"]) == (5, "subject_graph:work, 5 calls")
    figures = {each["target"]: each for each in document["functions"]}
    assert figures["subject_graph:step"]["calls"] == 15
    assert figures["subject_graph:step"]["cumulative_ns"] == 45 * MS


def test_output_with_the_time_holds_one_call_each(make: Make) -> None:
    shop = make(format="json", output="{time}.json")
    shop.work()
    threading.Event().wait(0.01)
    shop.work()
    documents = [json.loads(path.read_text()) for path in shop.files()]
    assert [each["measured_calls"] for each in documents] == [1, 1]


@pytest.mark.usefixtures("no_flushes")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_faster_calls_are_let_go(make: Make, strategy: str) -> None:
    shop = make(strategy, threshold="20ms")
    with testing.FakeClock() as clock, testing.capture() as events:
        shop.work(clock=clock)
        assert not shop.files() and events.names == ["start"]
        shop.work(n=10, clock=clock)
    assert (shop.probe.discarded, shop.probe.profiled) == (1, 1)
    assert "1 call followed" in shop.text()
    assert shop.probe.take_callees().get("subject_graph:step") == (10 if strategy == "cprof" else None)


def test_the_limit_is_said(make: Make) -> None:
    shop = make(duration="4ms")
    with testing.FakeClock() as clock:
        assert shop.work(clock=clock) == [3, 2, 1]
    assert "1 of them not to the end, 4.000 ms in all" in shop.text()


def test_a_call_that_raises_is_told(make: Make) -> None:
    shop = make()
    error = ValueError("reason")
    with testing.capture() as events, pytest.raises(ValueError) as caught:
        shop.work(fail=error)
    assert caught.value is error
    assert events.names == ["start", "exception", "complete"]
    assert "subject_graph:step" in shop.text()


def test_an_unwritable_place_costs_the_file_only(make: Make, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    shop = make(output=str(blocked / "one.txt"))
    with testing.capture("complete") as events:
        assert shop.work() == [3, 2, 1]
    assert events[0].metadata["profile"] is None
    assert guard.internal_errors.pop("artefact") == 1


def test_the_store_has_one_row_for_a_file(make: Make, tmp_path: Path) -> None:
    from autoprof import cli

    shop = make()
    for _ in range(3):
        shop.work()
    assert session.current is not None
    session.current.flusher.flush()
    shop.work()
    session.stop()
    out = tmp_path / "report.json"
    assert cli.main(["report", str(tmp_path / "out"), "--format", "json", "-o", str(out)]) == 0
    assert len(json.loads(out.read_text())["artefacts"]) == 1


def test_probes_whose_names_look_alike_have_files_of_their_own(tmp_path: Path) -> None:
    names = ("m:f-g", "m:f+g", "m-f:g", "m:" + "x" * 200 + "1", "m:" + "x" * 200 + "2")
    paths = set()
    for target in names:
        probe = Probe(target, "rule 1", "profile", None, {})
        paths.add(artefacts.path_for(str(tmp_path), probe, "txt", one_file=True))
    assert len(paths) == len(names)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_decorator_gives_the_same(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoprof

    monkeypatch.setenv("AUTOPROF_OUTPUT", str(tmp_path / "out"))
    source = SOURCE.replace(
        "def work", f"@__import__('autoprof').profile(strategy={strategy!r}, rate=1.0)\ndef work"
    )
    try:
        module = mechanisms.plain(source, "subject_graph", {})
        assert module.work() == [3, 2, 1]
        (status,) = autoprof.status()
        assert (status.strategy, status.state, status.profiled) == (strategy, "installed", 1)
        (path,) = (tmp_path / "out").glob("*.txt")
        assert "subject_graph:step" in path.read_text()
    finally:
        session.stop()
        del sys.modules["subject_graph"]


def test_flame_graph_waits_its_turn(make: Make) -> None:
    """One deterministic tool at a time: a flame graph inside a followed call is skipped."""
    pytest.importorskip("pyinstrument")
    name = "subject_graph"
    shop = make()
    output = str(shop.output)
    session.stop()
    start = mechanisms.policy(name, output)
    start["rules"] = [
        {"match": f"{name}:work", "policy": "profile", "strategy": "call_graph", "rate": 1.0},
        {"match": f"{name}:work", "policy": "flame_graph", "every": "0s"},
    ]
    module = mechanisms.spliced_at_import(SOURCE, name, start)
    assert module.work() == [3, 2, 1]
    assert session.current is not None
    found = session.current.installer.probes
    assert found[f"{name}:work", "profile"].profiled == 1
    assert found[f"{name}:work", "flame_graph"].skipped == {"busy": 1}
