"""`examples/guide.md` against the code: no row without a test, no default but the code's, both forms one probe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import autoprof
from autoprof import events, schema, session
from autoprof.probe import Probe
from tests import guide, mechanisms
from tests.guide import Row

BACK_ENDS = ("splice", "decorate")
SOURCE = "def f(x=1):\n    return x\n"
ATTRIBUTES = (
    "rate", "keeps", "threshold_ns", "limit_ns", "every_ns", "emits", "check_load", "asynchronous", "sampled",
    "policy", "strategy_name", "target", "state", "reason",
)  # fmt: skip
# What the guide's option tables and examples of its six decorators have, in its order.
GUIDE: dict[str, dict[str, Any]] = {
    "profile": {
        "strategy": "sample", "rate": 0.01, "duration": 30_000, "threshold": None, "enabled": True, "async": False,
        "emit_metrics": True, "check_load": True, "metadata": {},
    },
    "profile_if_slow": {"strategy": "sample", "rate": 0.1, "env": ["dev", "test"]},
    "profile_production": {"sample_rate": 0.001, "emit_metrics": True, "check_load": True},
    "flame_graph": {"output": None, "format": "svg", "enabled": True, "duration": 10_000},
    "profile_memory": {"env": ["dev", "test"], "threshold": None, "emit_metrics": True},
    "profile_calls": {"env": ["dev", "test"], "emit_metrics": True},
}  # fmt: skip
EXAMPLES = [
    "profile(strategy='sample', rate=0.01)", "profile_if_slow(threshold=1000)",
    "profile_production(sample_rate=0.001)", "profile(strategy='sample', rate=0.01, duration=30_000)",
    "profile(strategy='call_graph', env=['dev', 'test'])", "profile(strategy='memory')",
    "flame_graph(output='profile.svg', format='svg')", "profile(strategy='fprof', env=['dev'])",
    "profile(strategy='eprof', env=['dev'])", "profile_calls()", "profile()", "profile(rate=0.5, env=['dev'])",
    "profile(async_=True, strategy='flame_graph')", "profile(threshold=1000, strategy='memory')",
    "profile_if_slow(threshold=500)", "profile_if_slow(threshold=1000, rate=0.5)",
    "profile_production(sample_rate=0.01)", "flame_graph(output='startup_profile.svg')",
    "flame_graph(format='html', output='profile.html')",
    "flame_graph(enabled=os.environ.get('PROFILE') == 'true')", "profile_memory()",
    "profile_memory(threshold=10_000_000)", "profile_memory(env=['prod'], threshold=50_000_000)",
    "profile_production(sample_rate=0.001, emit_metrics=True)",
    "profile(strategy='flame_graph', enabled=os.environ.get('DEEP_PROFILE') == 'true', "
    "output='production_profile.svg')",
    "profile_if_slow(threshold=100, rate=1.0)", "profile_memory(threshold=50_000_000, env=['prod'])",
    "profile_production(sample_rate=0.05)", "profile(strategy='flame_graph', env=['dev', 'test'])",
    "profile(check_load=True)", "profile_production(emit_metrics=True)",
    "profile(strategy='flame_graph', async_=True)",
    "profile(strategy='sample', rate=0.1, duration=60_000)", "flame_graph(output='weekly_report.svg')",
    "profile_if_slow(threshold=100)",
]  # fmt: skip


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROFILE", "true")
    monkeypatch.setenv("DEEP_PROFILE", "true")
    yield
    autoprof.stop()
    sys.modules.pop("subject_guide", None)


def rule_of(text: str) -> dict[str, Any]:
    """Return the rule that a cell has, as YAML reads it."""
    rule = yaml.safe_load("{" + text + "}")
    assert isinstance(rule, dict)
    return rule


def policy_file(folder: Path, backend: str, rule: str, env: str) -> str:
    path = folder / "policy.yaml"
    lines = (f"version: 1\nenv: {env}\noutput: {folder / 'out'}\nrewrite: {backend}\n"
             f"budget: off\nload: {{cpu: off, memory: off}}\nreload: off\nrules:\n  - {{{rule}}}\n")  # fmt: skip
    path.write_text(lines)
    return str(path)


def executed(source: str, backend: str) -> ModuleType:
    """Execute the module as the import hook does."""
    module, path = mechanisms._fresh(source, "subject_guide")
    assert session.current is not None
    installer = session.current.installer
    code: Any = compile(source, path, "exec", dont_inherit=True)
    if backend == "splice":
        code = installer.rewrite_code(code, module.__name__)
    else:
        code = installer.rewrite_source(source, path, module.__name__) or code
    return mechanisms._execute(module, code)


def probe_of(kind: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
    assert session.current is not None
    found: Probe | None = session.current.installer.probes.get(("subject_guide:f", kind))
    if found is None:
        return None
    return {name: getattr(found, name) for name in ATTRIBUTES}, dict(found.options)


@pytest.mark.parametrize("backend", BACK_ENDS)
@pytest.mark.parametrize("row", guide.pairs(), ids=lambda row: f"line {row.line}")
def test_a_row_gives_the_same_probe_both_ways(row: Row, backend: str, tmp_path: Path) -> None:
    rule = rule_of(row.yaml)
    kind = rule["policy"]
    assert kind == row.decorator.partition("(")[0]
    env = rule.get("env") or "dev"
    env = env if isinstance(env, str) else env[0]

    autoprof.start(policy_file(tmp_path, backend, f"match: 'subject_guide:f', {row.yaml}", env))
    assert executed(SOURCE, backend).f(3) == 3
    by_rule = probe_of(kind)

    autoprof.start(policy_file(tmp_path, backend, "match: 'nothing.at.all:f', policy: profile", env))
    assert executed(f"import os\nfrom autoprof import *\n@{row.decorator}\n{SOURCE}", backend).f(3) == 3
    by_decorator = probe_of(kind)

    assert by_decorator is not None
    if rule.get("enabled") is False:  # no rule, no probe; a decorator is there to be listed
        assert by_rule is None and by_decorator[0]["state"] == "disabled"
        return
    assert by_rule == by_decorator
    assert by_rule is not None and by_rule[0]["state"] == "installed"


def test_every_row_names_a_test_that_exists() -> None:
    last = {"shown by"}
    for row in guide.rows():
        if row.section == "Different on purpose":
            continue
        assert set(row.cells) & last, f"line {row.line}: no column for the test"
        named = guide.TEST.findall(row.cells["shown by"])
        assert named, f"line {row.line} names no test"
        for file, name in named:
            assert name in guide.tests_of(file), f"line {row.line}: {file}::{name} is not there"
    for file, name in guide.TEST.findall(guide.PAGE.read_text("utf-8")):
        assert name in guide.tests_of(file), f"{file}::{name} is not there"


@pytest.mark.parametrize("kind", GUIDE)
def test_every_option_stands_there_with_its_default(kind: str) -> None:
    table = {option.key: option for option in schema.POLICIES[kind]}
    told = {row.words[0]: row for row in guide.rows() if row.section == kind and "option" in row.cells}
    assert set(told) == set(table)
    for key, row in told.items():
        given = row.cells["default"]
        if given == "required":
            assert table[key].needs
            continue
        value: Any = given.split(", ") if key == "env" else given
        value = None if given == "none" else {} if given == "{}" else value
        assert table[key].parse(value) == table[key].default, f"{kind}.{key}: {given}"
        assert ("*more*" in row.cells["option"]) is (
            key not in GUIDE[kind] and (kind, key) != ("profile", "env")
        )


@pytest.mark.parametrize("kind", GUIDE)
def test_the_guides_defaults_are_the_codes(kind: str) -> None:
    table = {option.key: option for option in schema.POLICIES[kind]}
    for key, value in GUIDE[kind].items():
        assert table[key].parse(value) == table[key].default, key
    required = [key for key, option in table.items() if option.needs]
    assert required == (["threshold"] if kind == "profile_if_slow" else [])


def test_every_example_of_the_guide_stands_there() -> None:
    def shape(text: str) -> tuple[str, Any]:
        kind = text.partition("(")[0]
        given: Any = eval(text, {"os": os, kind: dict})
        return kind, schema.options_for(kind, **given)

    there = [shape(row.decorator) for row in guide.pairs() if re.search(r"\((?!\D?\d)", row.decorator)
             and not re.match(r"\w+\(['\"]", row.decorator)]  # fmt: skip
    missing = [text for text in EXAMPLES if shape(text) not in there]
    assert not missing


def test_every_event_has_a_row() -> None:
    names = [row.words[0] for row in guide.rows() if "event" in row.cells]
    assert names == list(events.NAMES[:9])


@pytest.mark.parametrize("strategy", schema.STRATEGIES)
def test_every_strategy_stands_there(strategy: str) -> None:
    assert any(rule_of(row.yaml).get("strategy") == strategy for row in guide.pairs())


def test_a_row_with_another_probe_would_be_noticed() -> None:
    options = [schema.options_for("profile", rate=rate) for rate in (0.01, 0.02)]
    assert options[0] != options[1]
    assert [
        name for name in ATTRIBUTES if not hasattr(Probe("m:f", "r", "profile", None, options[0]), name)
    ] == []
