"""docutils, unmodified, converting a large file: same bytes, exact counts, a flame graph."""

from __future__ import annotations

import inspect
import json
import pickle
import sys
from collections import Counter
from pathlib import Path
from types import CodeType

import docutils
import pytest

from tests.conftest import Environment

_CONVERT = """\
import sys
from docutils.core import publish_file
settings = {"datestamp": None, "report_level": 5, "syntax_highlight": "none"}
publish_file(source_path=sys.argv[1], destination_path=sys.argv[2], writer_name="html5", settings_overrides=settings)
"""

_COUNT = """\
import cProfile, pickle, pstats, runpy, sys
out, script, *sys.argv = sys.argv[1:3] + sys.argv[2:]
profile = cProfile.Profile()
profile.enable()
runpy.run_path(script, run_name="__main__")
profile.disable()
rows = pstats.Stats(profile).stats.items()
pickle.dump({key: row[1] for key, row in rows if "docutils" in key[0]}, open(out, "wb"))
"""

_POLICY = """\
version: 1
output: ./out
rules:
  - match: ["docutils:*", "docutils.*:*"]
    policy: profile
    rate: 0.01
"""

_SECTION = """\
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, environment: Environment) -> Path:
    """A folder with the program, its input, the policy, and what a plain run makes of it."""
    made = tmp_path_factory.mktemp("docutils")
    (made / "convert.py").write_text(_CONVERT)
    (made / "count.py").write_text(_COUNT)
    (made / "policy.yaml").write_text(_POLICY)
    (made / "big.rst").write_text("".join(_SECTION.format(n=n) for n in range(150)))
    done = environment.run("convert.py", "big.rst", "plain.html", cwd=made, timeout=120)
    assert done.returncode == 0, done.stderr
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    done = environment.run("convert.py", "big.rst", "profiled.html", cwd=made, env=env, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return made


def _report(folder: Path, environment: Environment, *options: str) -> str:
    done = environment.run("-m", "autoprof", "report", "out", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_output_is_that_of_the_plain_run(folder: Path) -> None:
    plain = (folder / "plain.html").read_bytes()
    assert len(plain) > 200_000
    assert (folder / "profiled.html").read_bytes() == plain


def _targets() -> dict[tuple[str, int, str], tuple[str, bool]]:
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


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11),
    reason="from 3.12 on cProfile has other ways of counting: 3.11 is the reference",
)
def test_counts_are_those_of_cprofile(folder: Path, environment: Environment) -> None:
    done = environment.run(
        "count.py", "counts.pickle", "convert.py", "big.rst", "x.html", cwd=folder, timeout=240
    )
    assert done.returncode == 0, done.stderr
    counted: dict[tuple[str, int, str], int] = pickle.loads((folder / "counts.pickle").read_bytes())
    targets = _targets()
    expected: Counter[str] = Counter()
    generators = set()
    for key, count in counted.items():
        if key in targets:
            target, makes_generators = targets[key]
            expected[target] += count
            if makes_generators:
                generators.add(target)
    reported = {
        row["target"]: row["calls"]
        for row in json.loads(_report(folder, environment, "--format", "json"))["probes"]
    }
    assert len(expected) > 400
    assert set(expected) == {target for target, calls in reported.items() if calls}
    plain = {target: calls for target, calls in expected.items() if target not in generators}
    assert plain == {target: calls for target, calls in reported.items() if target in plain}
    for target in generators:  # cProfile counts resumptions
        assert 0 < reported[target] <= expected[target]


def test_the_flame_graph_has_the_hot_path(folder: Path, environment: Environment) -> None:
    svg = _report(folder, environment, "--format", "svg")
    assert svg.startswith(("<?xml", "<svg"))
    assert "docutils" in svg
    document = json.loads(_report(folder, environment, "--format", "speedscope"))
    assert document["profiles"]
