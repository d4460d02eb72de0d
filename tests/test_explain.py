"""check, explain and plan: their lines and exit statuses; sources are read, never executed."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from autoprof import sources
from autoprof.explain import check_lines, explain_lines, plan_lines

POLICY = """\
version: 1
rules:
  - name: pricing
    match: wares.pricing:*
    except: "*:_*"
    policy: profile_production
  - match: [wares:*, wares.*:*]
    policy: profile
    strategy: cprof
    threshold: 10ms
    metadata: {token: "${TOKEN:-none}"}
  - match: wares.gone:*
    policy: profile
  - match: wares.pricing:Basket.*
    policy: flame_graph
    env: prod
"""
PRICING = """\
import sys; sys.exit("executed")

def price(cents):
    def inner():
        return [x for x in ()] and (lambda: 1)
    return inner

def _hidden(): ...

class Basket:
    @property
    def total(self):
        return 1
    @total.setter
    def total(self, value): ...
    async def wait(self): ...

def price(cents):
    return "\\d"
"""


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A policy file, with a package it is about in the current folder."""
    package = tmp_path / "wares"
    (package / "deep" / "er").mkdir(parents=True)
    (package / "__init__.py").write_text("1 / 0\ndef start(): ...\n")
    (package / "pricing.py").write_text(PRICING)
    (package / "broken.py").write_text("def f(:\n")
    (package / "latin.py").write_bytes(b"x = '\xe9'\n")
    (package / "deep" / "er" / "leaf.py").write_text("def leaf(): ...\n")
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path)
    return "policy.yaml"


def write(path: str, text: str) -> str:
    Path(path).write_text(textwrap.dedent(text))
    return path


# check


def test_a_right_file(policy: str) -> None:
    status, out, err = check_lines(policy, env={})
    assert (status, err) == (0, [])
    assert out[0] == "policy.yaml: ok, 4 rules, 3 active in dev"
    assert "strategy cprof must run from the start of a call, so 1% of all calls pay" in out[1]


def test_the_environment_of_check(policy: str) -> None:
    assert check_lines(policy, env={"AUTOPROF_ENV": "prod"})[1][0].endswith("4 active in prod")
    assert check_lines(policy, env={"AUTOPROF_ENV": "prod"}, env_name="test")[1][0].endswith(
        "3 active in test"
    )


def test_all_errors_go_to_stderr_one_a_line(policy: str) -> None:
    path = write("bad.yaml", "version: 3\nrules:\n  - match: a\n    policy: b\n")
    status, out, err = check_lines(path, env={})
    assert (status, out) == (1, [])
    assert [line.split(" ")[0] for line in err] == ["bad.yaml:1:10:", "bad.yaml:3:12:", "bad.yaml:4:13:"]


@pytest.mark.parametrize(
    ("path", "why"), [("none.yaml", "No such file"), (".", "directory"), ("a\0b", "null")]
)
def test_a_file_that_can_not_be_read(policy: str, path: str, why: str) -> None:
    status, out, err = check_lines(path, env={})
    assert (status, out) == (1, [])
    assert why in err[0]
    assert err[0].isprintable()


def test_rules_that_match_nothing_are_listed(policy: str) -> None:
    status, out, err = check_lines(policy, env={}, against=["wares"])
    assert (status, err) == (1, [])
    assert [line for line in out if "matches no function" in line] == [
        "policy.yaml:12: rule 3 matches no function of wares: wares.gone:*"
    ]


def test_rules_that_all_match(policy: str) -> None:
    path = write("small.yaml", "version: 1\nrules:\n  - {match: wares.deep.er.leaf:leaf, policy: profile}\n")
    status, out, err = check_lines(path, env={}, against=["wares", "wares.deep"])
    assert (status, err) == (0, [])
    assert out[-1].startswith("every rule matches a function of wares, wares.deep")


def test_nothing_is_imported_or_executed(policy: str) -> None:
    before = set(sys.modules)
    check_lines(policy, env={}, against=["wares", "wares.pricing", "xml"])
    plan_lines(policy, ["wares"], env={})
    explain_lines(policy, "wares.pricing:price", env={})
    assert not {name for name in set(sys.modules) - before if name.startswith(("wares", "xml."))}


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("nope", "no module nope on the path or in the current folder"),
        ("wares.nope", "no module wares.nope"),
        ("wares.pricing.x", "wares.pricing is not a package"),
        ("wares.broken", "wares.broken does not compile: line 1"),
        ("wares.latin", "wares.latin does not compile"),
        ("wares..x", "is not the name of a module"),
        ("", "is not the name of a module"),
    ],
)
def test_a_module_that_can_not_be_read_is_an_error(policy: str, module: str, why: str) -> None:
    status, _, err = check_lines(policy, env={}, against=[module])
    assert status == 1
    assert len(err) == 1
    assert why in err[0]


def test_compiled_modules_say_so(policy: str) -> None:
    assert "compiled" in check_lines(policy, env={}, against=["_json"])[2][0]


# explain


def test_what_a_function_gets_and_why(policy: str) -> None:
    status, out, err = explain_lines(policy, "wares.pricing:price", env={"TOKEN": "hunter2"})
    text = "\n".join(out)
    assert (status, err) == (0, [])
    assert out[0] == "wares.pricing:price in the environment dev"
    assert "pricing.py, line 3, 18, one probe for all of them" in out[1]
    assert out[2] == "  profile_production, by pricing (policy.yaml:3)"
    assert out[3].startswith("      sample_rate 0.1%, ")
    assert out[4] == "  profile, by rule 2 (policy.yaml:7)"
    assert "threshold 10ms" in out[5] and "metadata [token]" in out[5]
    assert "hunter2" not in text
    assert "  1 pricing (line 3) profile_production: yes, wares.pricing:* matches" in out
    assert "  3 (line 12) profile: no, the module wares.pricing does not match wares.gone" in out
    assert any(
        line.startswith("  4 (line 14) flame_graph: no, it is for the environment prod") for line in out
    )
    assert "must run from the start of a call" in text


def test_property_getter_and_setter_are_one_target(policy: str) -> None:
    assert "line 11, 14, one probe" in "\n".join(
        explain_lines(policy, "wares.pricing:Basket.total", env={})[1]
    )


def test_a_function_that_gets_nothing(policy: str) -> None:
    status, out, _ = explain_lines(policy, "other:f", env={})
    assert status == 1
    assert "  no policy: this function is left as it is" in out
    assert "  source: no module other on the path or in the current folder" in out


def test_policy_none_is_told(policy: str) -> None:
    path = write("none.yaml", "version: 1\nrules:\n  - {match: wares:*, policy: none}\n")
    status, out, _ = explain_lines(path, "wares:start", env={})
    assert status == 1
    assert any("decorators in the code are off" in line for line in out)


def test_a_name_the_module_does_not_define(policy: str) -> None:
    assert "defines no missing" in explain_lines(policy, "wares:missing", env={})[1][1]


@pytest.mark.parametrize("target", ["wares.pricing.price", "wares", ":f", "wares:", "a:b:c", ""])
def test_a_target_has_two_sides(policy: str, target: str) -> None:
    status, out, err = explain_lines(policy, target, env={})
    assert (status, out) == (2, [])
    assert "a target is written module:function" in err[0]


def test_explain_with_a_bad_file_or_none(policy: str) -> None:
    assert explain_lines("none.yaml", "a:b", env={})[0] == 1
    path = write("bad.yaml", "rules: []")
    assert explain_lines(path, "a:b", env={})[2] == [
        "bad.yaml:1:1: the key version is missing; write version: 1 at the top"
    ]


def test_rules_without_end(policy: str) -> None:
    path = write("empty.yaml", "version: 1\nrules: []\n")
    assert "  there are none" in explain_lines(path, "a:b", env={})[1]


# plan


def test_the_plan_lists_what_would_be_instrumented(policy: str) -> None:
    status, out, err = plan_lines(policy, ["wares"], env={})
    assert (status, err) == (0, [])
    assert "wares.pricing:price: profile_production (pricing), profile (rule 2), line 3, 18" in out
    assert "wares.pricing:_hidden: profile (rule 2), line 8" in out
    assert "wares.pricing:price.<locals>.inner: profile_production (pricing), profile (rule 2), line 4" in out
    assert "wares.deep.er.leaf:leaf: profile (rule 2), line 1" in out
    assert not any("lambda" in line or "Basket:" in line for line in out)
    assert "would be instrumented" in out[-1]


def test_a_plan_with_nothing(policy: str) -> None:
    assert plan_lines(policy, ["string"], env={})[0] == 1
    assert plan_lines(policy, ["nope"], env={})[2] == ["no module nope on the path or in the current folder"]
    assert plan_lines("none.yaml", ["wares"], env={})[0] == 1


# sources


def test_class_bodies_and_type_parameters_are_no_functions(policy: str, tmp_path: Path) -> None:
    (tmp_path / "typed.py").write_text(
        "class A:\n    def m(self): ...\n    class B:\n        def n(self): ...\n"
    )
    found = sources.functions("typed", sources.find("typed"))
    assert [(one.qualname, one.line) for one in found] == [("A.m", 2), ("A.B.n", 4)]


def test_a_warning_in_the_source_is_not_ours(policy: str) -> None:
    assert sources.functions("wares.pricing", sources.find("wares.pricing"))


def test_a_source_that_nests_deep(policy: str, tmp_path: Path) -> None:
    (tmp_path / "deepest.py").write_text("x = " + "(" * 5_000 + ")" * 5_000)
    with pytest.raises(sources.Unreadable):
        sources.functions("deepest", sources.find("deepest"))


def test_namespace_packages(policy: str, tmp_path: Path) -> None:
    (tmp_path / "space" / "inner").mkdir(parents=True)
    (tmp_path / "space" / "inner" / "leaf.py").write_text("def f(): ...\n")
    assert [
        one.qualname for one in sources.functions("space.inner.leaf", sources.find("space.inner.leaf"))
    ] == ["f"]
    assert "space.inner.leaf" in [name for name, _ in sources.modules("space")]


def test_a_zip_file_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zipfile

    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("zipped/__init__.py", "def f(): ...\n")
    monkeypatch.syspath_prepend(str(archive))
    assert [one.qualname for one in sources.functions("zipped", sources.find("zipped"))] == ["f"]


# did you mean


def test_the_nearest_function_and_module(policy: str) -> None:
    assert "(did you mean wares.pricing:price?)" in explain_lines(policy, "wares.pricing:prize", env={})[1][1]
    assert "(did you mean wares.pricing?)" in explain_lines(policy, "wares.pricings:price", env={})[1][1]
    path = write("other.yaml", "version: 1\nrules: [{match: 'a:b', policy: profile}]\n")
    out = explain_lines(path, "wares:start", env={})[1]
    assert "  no rule names it; one that would: {match: wares:start, policy: profile}" in out
    path = write("dev.yaml", "version: 1\nrules: [{match: 'wares:*', policy: profile, env: prod}]\n")
    out = explain_lines(path, "wares:start", env={})[1]
    assert "  rule 1 selects it: write env: [prod, dev] there, or set AUTOPROF_ENV=prod" in out
