"""Decorators read from source: what explain says of them is what happens when the program runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoprof.explain import explain_lines
from tests.conftest import Environment

DECORATED = """\
import functools
import autoprof
import autoprof as ap
from autoprof import profile, flame_graph as flames
from autoprof.decorators import profile_calls
usual = autoprof.profile(rate=1.0)

@profile
def by_rule(): ...

@profile(rate=0.5)
@autoprof.profile_memory
def free(): ...

@profile(env=["prod"])
def elsewhere(): ...

@ap.flame_graph(enabled=False)
def off(): ...

@flames(output="x.svg")
@profile_calls()
def none(): ...

if True:
    class Shelf:
        @property
        @usual
        def books(self):
            @ap.profile(rate=float("0.25"))
            def inner(): ...
            inner()
            return inner

@profile(rate=0.1)
@profile(rate=1.0)
def twice(): ...

def plain(): ...
"""
DECORATED_POLICY = """\
version: 1
output: out
rules:
  - {match: decorated:by_rule, policy: profile, rate: 1.0, name: winner}
  - {match: decorated:none, policy: flame_graph}
  - {match: decorated:none, policy: none, name: silence}
"""
TOLD = """\
import decorated, autoprof
decorated.Shelf().books()
for each in autoprof.status():
    print(each.target, each.policy, each.rule, each.state, sep="|")
"""


@pytest.fixture
def in_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with decorators in the current folder, and a policy file about it."""
    (tmp_path / "decorated.py").write_text(DECORATED)
    (tmp_path / "policy.yaml").write_text(DECORATED_POLICY)
    monkeypatch.chdir(tmp_path)
    return "policy.yaml"


def said_of_decorators(path: str, name: str, **env: str) -> tuple[int, list[str]]:
    """Return the status and the lines about decorators."""
    status, out, _ = explain_lines(path, f"decorated:{name}", env=env)
    return status, [line.strip() for line in out if "by the decorator" in line]


@pytest.mark.parametrize(
    ("name", "status", "said"),
    [
        (
            "by_rule",
            0,
            [
                "profile, by the decorator in line 8: not in force: winner (line 4) gives profile too, and a rule wins"
            ],
        ),
        (
            "free",
            0,
            [
                "profile, by the decorator in line 11: in force",
                "profile_memory, by the decorator in line 12: in force",
            ],
        ),
        (
            "elsewhere",
            1,
            [
                "profile, by the decorator in line 15: not in force: it is for the environment prod, and this is dev"
            ],
        ),
        (
            "off",
            1,
            ["flame_graph, by the decorator in line 18: not in force: enabled=False is written there"],
        ),
        (
            "none",
            0,
            [
                "flame_graph, by the decorator in line 21: not in force: rule 2 (line 5) gives flame_graph too",
                "profile_calls, by the decorator in line 22: not in force: silence (line 6) has policy: none",
            ],
        ),
        ("Shelf.books", 0, ["profile, by the decorator in line 28: in force"]),
        (
            "Shelf.books.<locals>.inner",
            0,
            ["profile, by the decorator in line 30: in force; only running it tells rate"],
        ),
        (
            "twice",
            0,
            [
                "profile, by the decorator in line 35: not in force: the one in line 36 is nearer",
                "profile, by the decorator in line 36: in force",
            ],
        ),
        ("plain", 1, []),
    ],
)
def test_decorators_and_rules(in_code: str, name: str, status: int, said: list[str]) -> None:
    found, lines = said_of_decorators(in_code, name)
    assert found == status
    assert len(lines) == len(said) and all(map(str.startswith, lines, said)), lines


def test_decorators_in_another_environment(in_code: str) -> None:
    assert said_of_decorators(in_code, "elsewhere", AUTOPROF_ENV="prod")[1][0].endswith(": in force")
    found, lines = said_of_decorators(in_code, "free", AUTOPROF_ENABLED="off")
    assert found == 1 and all("AUTOPROF_ENABLED switches all of them off" in line for line in lines)


def test_what_is_said_of_decorators_is_what_happens(in_code: str, environment: Environment) -> None:
    done = environment.run("-c", TOLD, env={"AUTOPROF_CONFIG": in_code, "PYTHONPATH": "."})
    assert (done.returncode, done.stderr) == (0, "")
    rows = {tuple(line.split("|")[:2]): line.split("|")[2:] for line in done.stdout.splitlines()}
    for name in (
        "by_rule",
        "free",
        "none",
        "Shelf.books",
        "Shelf.books.<locals>.inner",
        "twice",
        "elsewhere",
        "off",
    ):
        for line in said_of_decorators(in_code, name)[1]:
            kind = line.split(",")[0]
            rule, state = rows.get((f"decorated:{name}", kind), ("nothing", "removed"))
            ours = rule == "decorator" and state in ("installed", "disabled") and "enabled=False" not in line
            if "is nearer" not in line and "environment prod" not in line:
                assert (": in force" in line) is ours, (name, line, rule, state)
            elif "environment prod" in line:
                assert (rule, state) == ("decorator", "disabled")


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("from autoprof import *\n@profile_production\ndef f(): ...\n", ["line 2: in force"]),
        ("from autoprof import profile_if_slow\n@profile_if_slow(500)\ndef f(): ...\n", ["line 2: in force"]),
        (
            "from autoprof import profile_if_slow\n@profile_if_slow\ndef f(): ...\n",
            ["line 2: not in force: it raises"],
        ),
        ("from autoprof import profile\n@profile(rat=1)\ndef f(): ...\n", ["did you mean rate?"]),
        (
            "from autoprof import profile\n@profile(**{'rate': 1})\nasync def f(): ...\n",
            ["line 2: in force"],
        ),
        (
            "from autoprof import profile\n@profile(**{1: 1})\ndef f(): ...\n",
            ["not in force: it raises TypeError"],
        ),
        ("from autoprof import profile\n@profile(**o)\ndef f(): ...\n", ["only running it tells **"]),
        (
            "from autoprof import profile\n@profile(kind=1)\ndef f(): ...\n",
            ["not in force: it raises TypeError"],
        ),
        ("from line_profiler import profile\n@profile\ndef f(): 'autoprof'\n", []),
        ("from .autoprof import profile\n@profile\ndef f(): ...\n", []),
        ("p = q\nq = p\n@p\ndef f(): 'autoprof'\n", []),
        ("import autoprof\n@autoprof.start\n@autoprof.strategies.profile\n@a[0]\ndef f(): ...\n", []),
    ],
)
def test_how_decorators_are_written(in_code: str, code: str, lines: list[str]) -> None:
    Path("decorated.py").write_text(code)
    found = said_of_decorators(in_code, "f")[1]
    assert len(found) == len(lines)
    assert all(part in line for part, line in zip(lines, found, strict=True)), found
