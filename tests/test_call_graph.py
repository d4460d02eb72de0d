"""The strategies call_graph, fprof, eprof and cprof: their files, formats and events."""

from __future__ import annotations

import json
import os
import pstats
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import arbiter, artefacts, guard, schema, session, testing
from autoprof.callgraph import Figures, Graph
from autoprof.probe import Probe
from tests import mechanisms

SOURCE = """
def work(n=3, act=None, fail=None, clock=None):
    for _ in range(n): step(clock)
    if act: return act()
    if fail: raise fail
    return sorted([3, 1, 2], key=negative)
def step(clock):
    if clock: clock.now_ns += 2_000_000
    return helper(clock)
def helper(clock):
    if clock: clock.now_ns += 1_000_000
    return len("text")
def negative(v):
    return -v
"""
STRATEGIES = ("call_graph", "fprof", "eprof", "cprof")
MS = 1_000_000


class Shop:
    """A module with one of the strategies on `work`."""

    def __init__(self, module: Any, output: Path) -> None:
        self.work = module.work
        self.module = module
        self.output = output

    @property
    def probe(self) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:work", "profile"]

    def files(self) -> list[Path]:
        return sorted(path for path in self.output.glob("**/*") if path.is_file() and ".db" not in path.name)

    def text(self) -> str:
        (path,) = self.files()
        return path.read_text()


Make = Callable[..., Shop]


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    def make_shop(strategy: str = "call_graph", **options: Any) -> Shop:
        name = "subject_graph"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:work", "policy": "profile", "strategy": strategy, "rate": 1.0}
        start["rules"] = [{**rule, **options}]
        return Shop(mechanisms.MECHANISMS[request.param](SOURCE, name, start), tmp_path / "out")

    yield make_shop
    session.stop()
    sys.modules.pop("subject_graph", None)
    assert sys.getprofile() is None and arbiter.holder is None


def measured(shop: Shop, calls: int = 1) -> Shop:
    with testing.FakeClock() as clock:
        for _ in range(calls):
            assert shop.work(clock=clock) == [3, 2, 1]
    return shop


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


def test_json_names_functions_by_their_place(make: Make) -> None:
    document = json.loads(measured(make(format="json")).text())
    names = [each["target"] for each in document["functions"]]
    edges = {(names[each["caller"]], names[each["callee"]]): each for each in document["edges"]}
    edge = edges["subject_graph:work", "subject_graph:step"]
    assert (edge["calls"], edge["self_ns"], edge["cumulative_ns"]) == (3, 6 * MS, 9 * MS)
    assert document["schema"] == 1 and document["cut_calls"] == 0


def test_json_of_counts_has_no_times(make: Make) -> None:
    document = json.loads(measured(make("cprof", format="json")).text())
    assert not [
        key for each in document["functions"] + document["edges"] for key in each if key.endswith("_ns")
    ]


def test_pstats_reads_its_file(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    shop = measured(make(format="pstats"))
    (path,) = shop.files()
    stats: Any = pstats.Stats(str(path))
    key = ("/nowhere/subject_graph.py", 7, "step")
    primitive, calls, total_s, cumulative_s, callers = stats.stats[key]
    assert (primitive, calls, round(total_s, 6), round(cumulative_s, 6)) == (3, 3, 0.006, 0.009)
    assert callers == {("/nowhere/subject_graph.py", 2, "work"): (3, 3, total_s, cumulative_s)}
    assert round(stats.total_tt, 6) == 0.009
    stats.sort_stats("cumulative").print_stats()
    stats.print_callers()
    stats.print_callees()
    assert "built-in method builtins.len" in capsys.readouterr().out


ANNOTATE = shutil.which("callgrind_annotate")


@pytest.mark.skipif(ANNOTATE is None, reason="callgrind_annotate, of valgrind, is not installed")
@pytest.mark.parametrize("strategy", ["call_graph", "cprof"])
def test_callgrind_annotate_reads_its_file(make: Make, strategy: str) -> None:
    shop = measured(make(strategy, format="callgrind"))
    (path,) = shop.files()
    inclusive = _annotated("--inclusive=yes", str(path))
    exclusive = _annotated("--inclusive=no", "--tree=both", str(path))
    if strategy == "call_graph":
        assert re.search(r"^ *9,000,000 \(100.0%\) .*subject_graph:work", inclusive, re.M)
        assert re.search(r"^ *6,000,000 \(66.67%\) .*\* .*subject_graph:step", exclusive, re.M)
        assert re.search(r"^ *9,000,000 \(100.0%\) +< .*subject_graph:work \(3x\)", exclusive, re.M)
    else:
        assert re.search(r"^ *3 \(.*\) .*\* .*subject_graph:step", exclusive, re.M)


def _annotated(*arguments: str) -> str:
    assert ANNOTATE is not None
    done = subprocess.run([ANNOTATE, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_dot_is_a_digraph(make: Make) -> None:
    nodes, edges = parsed_dot(measured(make(format="dot")).text())
    names = {node: label.split("\n")[0] for node, label in nodes.items()}
    assert (
        "3x, 6.000 / 9.000 ms" in nodes[next(n for n, name in names.items() if name == "subject_graph:step")]
    )
    found = {(names[a], names[b]): label for a, b, label in edges}
    assert found["subject_graph:work", "subject_graph:step"] == "3x, 6.000 / 9.000 ms"


def parsed_dot(text: str) -> tuple[dict[str, str], list[tuple[str, str, str]]]:
    """Read the part of Graphviz' grammar that is used; fail at anything else."""
    string = r'"((?:[^"\\]|\\.)*)"'
    nodes: dict[str, str] = {}
    edges: list[tuple[str, str, str]] = []
    lines = text.splitlines()
    assert lines[0] == "digraph calls {" and lines[-1] == "}"
    assert re.fullmatch(rf"  label={string}; labelloc=t; rankdir=TB;", lines[1])
    for line in lines[3:-1]:
        if node := re.fullmatch(rf"  (n\d+) \[label={string}, fillcolor=\"[\d. ]+\"\];", line):
            nodes[node[1]] = _unescaped(node[2])
        else:
            edge = re.fullmatch(rf"  (n\d+) -> (n\d+) \[label={string}\];", line)
            assert edge, line
            edges.append((edge[1], edge[2], _unescaped(edge[3])))
    return nodes, edges


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], text).replace("&amp;", "&")


HOSTILE = 'a"b\\N\n</text>&\x1b[31m;\u202e\ud800 fn=(1)'


@pytest.mark.parametrize("view", ["graph", "details", "functions", "counts"])
@pytest.mark.parametrize("format_", schema.TABLE_FORMATS)
def test_hostile_names(view: str, format_: str, tmp_path: Path) -> None:
    """No name breaks out of its line, steers a terminal or breaks a format."""
    graph = Graph()
    caller = (f"m:{HOSTILE}", f"{HOSTILE}.py", 3, HOSTILE)
    callee = ("m:callee", "", 0, f"<{HOSTILE}>")
    for function in (caller, callee):
        graph.count(function, Figures(2, 1, 5, 9))
    graph.count_edge(caller, callee, Figures(2, 1, 5, 5))
    graph.measured = 1
    content = artefacts.render(view, format_, graph, f"m:{HOSTILE}, one call")
    path = tmp_path / "one"
    artefacts.write_atomically(str(path), content)
    if format_ == "pstats":
        stats: Any = pstats.Stats(str(path))
        assert (f"{HOSTILE}.py", 3, HOSTILE) in stats.stats
        return
    assert isinstance(content, str)
    assert not [each for each in content if each != "\n" and not each.isprintable()]
    content.encode()
    if format_ == "json":
        assert f"m:{HOSTILE}" in [each["target"] for each in json.loads(content)["functions"]]
    elif format_ == "dot":
        nodes, edges = parsed_dot(content)
        assert len(nodes) == 2 and len(edges) == 1
    elif format_ == "callgrind":
        assert len(re.findall(r"^fn=", content, re.M)) == 2
        if ANNOTATE is not None:
            assert "m:callee" in _annotated(str(path))
    else:
        assert not [line for line in content.splitlines() if line.startswith(("fn=", "</text>"))]


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
