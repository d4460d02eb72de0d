"""The formats of call graphs: other tools read them, and no name breaks out of them."""

from __future__ import annotations

import json
import pstats
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import artefacts, schema
from autoprof.callgraph import Figures, Graph
from tests.call_graphs import BACK_ENDS, MS, Make, makes, measured


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    yield from makes(request.param, tmp_path)


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
