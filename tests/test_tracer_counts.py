"""What the tracer counts, held against cProfile."""

from __future__ import annotations

import cProfile
import gc
import pstats
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

from autoprof.callgraph import Graph
from tests import mechanisms
from tests.traced import BACK_ENDS, Make, makes


@pytest.fixture(params=BACK_ENDS)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    yield from makes(request.param, tmp_path, monkeypatch)


PROGRAM = """
import json
def main(text):
    found = json.loads(text)
    out = json.dumps(found, indent=2, sort_keys=True)
    for key in sorted(found): str(key).upper().split("A")
    return parse(out)
def parse(text):
    import re
    return [m.group() for m in re.compile("[0-9]+").finditer(text)]
"""


Key = tuple[str, int, str]


def _counted(graph: Graph) -> dict[Key, tuple[int, int]]:
    """Primitive and all calls, by the key that pstats uses."""
    found: dict[Key, tuple[int, int]] = {}
    for (_, file, line, name), figures in graph.functions.items():
        key = (file or "~", line, name)
        before = found.get(key, (0, 0))
        found[key] = (before[0] + figures.primitive, before[1] + figures.calls)
    return found


def _cprofiled(function: Any, *args: Any) -> dict[Key, tuple[int, int]]:
    profile = cProfile.Profile()
    profile.enable()
    function(*args)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    found: dict[Key, tuple[int, int]] = {}
    for (file, line, name), figures in stats.stats.items():
        key = (
            file,
            line,
            re.sub(r" of type object at 0x\w+", "", name),
        )  # the address of a class whose __new__ it is
        before = found.get(key, (0, 0))
        found[key] = (before[0] + figures[0], before[1] + figures[1])
    del found["~", 0, "<method 'disable' of '_lsprof.Profiler' objects>"]
    return found


DOCUTILS = """
import docutils.core
def main(text):
    settings = {"report_level": 5, "_disable_config": True, "datestamp": None}
    return docutils.core.publish_string(text, writer="html5", settings_overrides=settings)
"""
RST = """
Title
=====

Some *text* with `links <https://example.org>`__ and ``code``.

- one
- two

  1. three

=====  =====
A      B
=====  =====
False  True
=====  =====

.. note:: A directive, with a footnote [#]_.

.. [#] The footnote.
"""


JSON_TEXT = "{" + ", ".join(f'"k{i}": [1, {i}, "v"]' for i in range(50)) + "}"


@pytest.mark.parametrize(
    ("source", "text", "functions", "calls"), [(PROGRAM, JSON_TEXT, 20, 200), (DOCUTILS, RST, 300, 5_000)]
)
def test_counts_equal_cprofiles(make: Make, source: str, text: str, functions: int, calls: int) -> None:
    """Of every function, on every version, in a process in which only one thread runs."""
    pytest.importorskip("docutils")
    plain = mechanisms.plain(source, "subject_plain", {})
    for _ in range(2):  # what is imported, compiled and cached the first time only is then done
        expected = plain.main(text)
    gc.collect()
    gc.disable()
    try:
        theirs = _cprofiled(plain.main, text)
    finally:
        gc.enable()
    del sys.modules["subject_plain"]
    traced = make(source)
    gc.collect()
    gc.disable()  # the test tools' callbacks of the collector are functions like any others
    try:
        assert traced.main(text) == expected
    finally:
        gc.enable()
    ours = {
        (file.replace("subject_traced", "subject_plain"), line, name): counts
        for (file, line, name), counts in _counted(traced.graph).items()
    }
    assert len(ours) > functions and sum(count for _, count in ours.values()) > calls
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    # cProfile counts every resumption of a generator as a call: of these we say less, and of nothing else.
    assert not differing - _resumable(traced.graph)
    assert all(1 <= ours[key][1] < theirs[key][1] for key in differing)


def _resumable(graph: Graph) -> set[Key]:
    """The generator functions among those of a graph, by the key of pstats."""
    places = {function[1:3] for function in graph.functions}
    codes = [each.__code__ for each in gc.get_objects() if isinstance(each, FunctionType)]
    for code in codes:  # and those inside them: generator expressions
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
    found = {
        code for code in codes if code.co_flags & 0x20 and (code.co_filename, code.co_firstlineno) in places
    }
    return {(code.co_filename, code.co_firstlineno, code.co_name) for code in found}
