"""Counts of calls: the gates', `profile_calls`' and `call_graph`'s, against cProfile on 3.11 and its successor after it.

From 3.12 on cProfile has other ways of counting; there the truth is the interpreter's event for the start of a function.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType
from typing import Any

import docutils

from tests.truth.rows import Row, counts_row
from tests.truth.running import PROGRAMS, Run

SECTION = """\
Section {n}
============

Some *emphasis*, **strong**, ``code``, a `link {n} <http://example.com/{n}>`_ and |sub{n}|.

.. |sub{n}| replace:: text {n}

- item one

  - nested

1. first

.. code-block:: python

   def f(x):
       return x

.. note:: A note with a footnote [#f{n}]_.

======  =====
A       B
======  =====
1       2
======  =====

Term
  Definition

.. [#f{n}] The footnote.

"""

COUNTER = "cProfile" if sys.version_info < (3, 12) else "sys.monitoring"
_EVERYTHING = "match: ['docutils:*', 'docutils.*:*'], policy: profile, rate: 0.01"


def rows(folder: Path) -> Iterator[Row]:
    """Compare all of docutils, functions of every kind, and one call of a program of email, json and docutils."""
    yield from gate_rows(folder / "gates")
    yield makers_row(folder / "makers")
    yield from inside_rows(folder / "inside")


def targets_of_docutils() -> dict[tuple[str, int, str], tuple[str, bool]]:
    """Return (file, line, name) → target and whether it makes generators, for every function of docutils."""
    root = Path(docutils.__file__).parent
    found: dict[tuple[str, int, str], tuple[str, bool]] = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        _walk(compile(path.read_bytes(), str(path), "exec"), module, found)
    return found


def _walk(code: CodeType, module: str, found: dict[tuple[str, int, str], tuple[str, bool]]) -> None:
    for const in code.co_consts:
        if isinstance(const, CodeType):
            function = const.co_flags & inspect.CO_OPTIMIZED and const.co_flags & inspect.CO_NEWLOCALS
            if function and "<" not in const.co_name:
                key = (const.co_filename, const.co_firstlineno, const.co_name)
                found[key] = (f"{module}:{const.co_qualname}", bool(const.co_flags & inspect.CO_GENERATOR))
            _walk(const, module, found)


def expected_of_docutils(counted: Iterable[Any]) -> tuple[Counter[str], set[str]]:
    """Return the calls of each target of docutils, and which of them make generators.

    Args:
        counted: what `programs/counted.py` prints.
    """
    targets = targets_of_docutils()
    expected: Counter[str] = Counter()
    generators = set()
    for file, line, name, _, count in counted:
        if (file, line, name) in targets:
            target, makes_generators = targets[file, line, name]
            expected[target] += count
            if makes_generators:
                generators.add(target)
    return expected, generators


def gate_rows(folder: Path) -> Iterator[Row]:
    """Compare every function of docutils while it converts a file."""
    text = "".join(SECTION.format(n=n) for n in range(40))
    run, reference = Run(folder / "run", "convert", _EVERYTHING), Run(folder / "reference", "counted")
    for each in (run, reference):
        (each.folder / "big.rst").write_text(text)
    run("big.rst", "big.html")
    counted = reference("docutils", PROGRAMS / "convert.py", "big.rst", "big.html")
    expected, generators = expected_of_docutils(counted)
    reported = {target: row["calls"] for target, row in run.report().items() if row["calls"]}
    plain = {target: calls for target, calls in expected.items() if target not in generators}
    found = {target: calls for target, calls in reported.items() if target not in generators}
    yield counts_row(f"calls: every gate of docutils, {COUNTER}", plain, found, least=400)
    yield _generators_row({each: expected[each] for each in generators}, reported)


def _generators_row(counted: dict[str, int], reported: dict[str, int]) -> Row:
    """Compare generators: the gate counts once per call of the function, cProfile resumptions, its successor starts."""
    calls = {each: reported.get(each, 0) for each in counted}
    total = sum(counted.values())
    if COUNTER == "cProfile":
        truth = f"<= {total:,} resumptions"
        wrong = sum(calls[each] < 1 or calls[each] > counted[each] for each in counted)
    else:
        truth = f">= {total:,} starts"
        wrong = sum(calls[each] < counted[each] for each in counted)
    measured = f"{sum(calls.values()):,} in {len(calls)} fn"
    return Row(f"calls: generators of docutils, {COUNTER}", truth, measured, wrong, 0, "wrong")


def makers_row(folder: Path) -> Row:
    """Compare generators, coroutines, recursion and exceptions: one count a call, however it goes on."""
    names = ("numbers", "begun", "unbegun", "recursive", "raising", "waits", "items")
    match = ", ".join(f"'__main__:{name}'" for name in names)
    run = Run(folder, "makers", f"match: [{match}], policy: profile, rate: 0.3")
    truth = {f"__main__:{name}": calls for name, calls in run().items()}
    found = {target: row["calls"] for target, row in run.report().items()}
    return counts_row("calls: generators, coroutines, recursion, exceptions", truth, found, least=len(names))


def inside_rows(folder: Path) -> Iterator[Row]:
    """Compare what `call_graph` and `profile_calls` count inside the same one call."""
    run = Run(
        folder / "run",
        "inside",
        "match: '__main__:work', policy: profile, strategy: call_graph, rate: 1.0, format: json",
        "match: '__main__:work', policy: profile_calls, rate: 1.0",
    )
    (told,) = run("told")
    (file,) = run.files("call_graph-*.json")
    functions = json.loads(file.read_text())["functions"]
    # The same program in another folder would have another path in its functions' keys.
    counted = Run(run.folder, "inside")("counted")
    yield from _graph_rows(functions, counted)
    python = {row[3]: 0 for row in counted if row[3]}
    for _, _, _, target, makes_generators, calls, _ in counted:
        if target and not (makes_generators and COUNTER == "cProfile"):
            python[target] += calls
    python = {target: calls for target, calls in python.items() if calls and target != "__main__:work"}
    found = {target: calls for target, calls in told["callees"].items() if target in python}
    yield counts_row(f"calls: profile_calls, callees of one call, {COUNTER}", python, found, least=300)
    inside = Counter({each["target"]: 0 for each in functions})
    for each in functions:
        inside[each["target"]] += each["calls"]
    inside["__main__:work"] -= told["calls"]
    whole = {target: calls for target, calls in inside.items() if calls}
    yield counts_row("calls: profile_calls, callees against call_graph", whole, told["callees"], least=400)


def _graph_rows(functions: list[dict[str, Any]], counted: list[Any]) -> Iterator[Row]:
    resumed = COUNTER == "cProfile"
    makers = {(file, line, name) for file, line, name, _, makes, _, _ in counted if makes}
    skipped = makers if resumed else set()
    truth: Counter[Any] = Counter()
    primitive: Counter[Any] = Counter()
    for file, line, name, _, _, calls, primitive_calls in counted:
        if (file, line, name) not in skipped:
            truth[file, line, name] += calls
            primitive[file, line, name] += primitive_calls or 0
    found: Counter[Any] = Counter()
    found_primitive: Counter[Any] = Counter()
    for each in functions:
        key = (each["file"] or "~", each["line"] or 0, each["name"])
        if key not in skipped and (resumed or each["file"]):
            found[key] += each["calls"]
            found_primitive[key] += each["primitive_calls"]
    kind = "Python and C functions" if resumed else "Python functions"
    yield counts_row(f"calls: call_graph, {kind}, {COUNTER}", truth, found, least=300)
    if resumed:
        yield counts_row(
            f"calls: call_graph, primitive calls, {COUNTER}", primitive, found_primitive, least=300
        )
