"""`autoprof schema`: it lets through what autoprof reads, and refuses what people get wrong."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
import yaml

from autoprof import cli, config, json_schema, schema
from autoprof.errors import PolicyErrors
from tests.conftest import REPOSITORY

DOCUMENT = json_schema.document()
VALIDATOR = jsonschema.Draft202012Validator(DOCUMENT)
FILES = sorted((REPOSITORY / "config").glob("*.yaml"))


def accepts(text: str) -> bool:
    """Tell whether the schema lets a policy through."""
    return bool(VALIDATOR.is_valid(yaml.safe_load(text)))


def reads(text: str) -> bool:
    """Tell whether autoprof reads it."""
    try:
        config.loads(text, filename="policy.yaml", env={})
    except PolicyErrors:
        return False
    return True


def rule(line: str) -> str:
    """Return a policy with one rule."""
    return f"version: 1\nrules:\n  - {{match: 'shop.db:*', {line}}}\n"


def test_it_is_a_schema_and_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    jsonschema.Draft202012Validator.check_schema(DOCUMENT)
    assert cli.main(["schema"]) == 0
    shown = capsys.readouterr()
    assert (json.loads(shown.out), shown.err) == (DOCUMENT, "")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_shipped_policy_is_valid(path: Any) -> None:
    assert list(VALIDATOR.iter_errors(yaml.safe_load(path.read_text("utf-8")))) == []


RIGHT = [
    "version: 1",
    "version: 1\nload: off\nreload: never\nbudget: off",
    "version: 1\nload: {cpu: off, memory: 0.5}\noutput_mode: 0640\nstore: {max_size: 1gb, max_age: 1000000}",
    "version: 1\nservice: shop\nprograms: [\"gunicorn*\"]\nenv: prod",
    "version: 1\nservice: {name: shop, version: 1.2}\nprograms: python*",
    "version: 1\nexporters: [log, prometheus: {port: 9464}, {jsonl: }]",
    "version: 1\nbudget: ${BUDGET:-1%}\nreload: \"${RELOAD:-1s}\"",
    rule("policy: profile, rate: 1e-3, duration: 250us, threshold: 1.5 s, every: 2, interval: 1ms"),
    rule("policy: profile, strategy: call_graph, format: dot, output: '{target}.dot', metadata: {team: 7, on: yes}"),
    rule("policy: profile_if_slow, threshold: 0, env: [dev, prod], async: 1, enabled: 'YES'"),
    rule("policy: profile_production, sample_rate: 5%, for: 10m, name: x, except: []"),
    rule("policy: flame_graph, format: html, enabled: \"${DEEP:-false}\", every: off"),
    rule("policy: profile_memory, threshold: 10MiB, emit_metrics: off"),
    rule("policy: profile_calls, callees: no, env: prod, except: ['shop.db:_*', 'shop.db:x']"),
    rule("policy: none"),
]  # fmt: skip
WRONG = [
    "rules: []",
    "version: 2",
    "version: 1\nrule: []",
    "version: 1\nbudget: 200%\nreload: 1 fortnight",
    "version: 1\nstore: {max_sice: 1GB}",
    "version: 1\nexporters: [prometeus]",
    "version: 1\nexporters: log",
    rule("policy: profil"),
    rule("policy: profile, rat: 1"),
    rule("policy: profile, rate: 2"),
    rule("policy: profile, rate: -0.1"),
    rule("policy: profile, strategy: sampel"),
    rule("policy: profile, duration: -5"),
    rule("policy: profile, duration: 5 MB"),
    rule("policy: profile, metadata: {a: [1]}"),
    rule("policy: profile, enabled: maybe"),
    rule("policy: profile_if_slow"),
    rule("policy: profile_production, rate: 1"),
    rule("policy: flame_graph, format: dot"),
    rule("policy: profile_memory, threshold: 10s"),
    rule("policy: none, rate: 1"),
    "version: 1\nrules: [{policy: profile}]",
    "version: 1\nrules: [{match: 'a:*'}]",
    "version: 1\nrules: [{match: 'nocolon', policy: profile}]",
    "version: 1\nrules: [{match: [], policy: profile}]",
]


@pytest.mark.parametrize("text", RIGHT)
def test_what_autoprof_reads_is_valid(text: str) -> None:
    text = text.replace("${BUDGET:-1%}", "'${BUDGET:-1%}'")
    assert reads(text)
    assert accepts(text), [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))]


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_not(text: str) -> None:
    assert not reads(text)
    assert not accepts(text)


@pytest.mark.parametrize("kind", schema.POLICIES)
def test_every_option_and_its_default_is_in_it(kind: str) -> None:
    """Every key of every policy, alone: its default as the schema writes it is valid, and autoprof reads it."""
    found = next(each for each in DOCUMENT["properties"]["rules"]["items"]["allOf"]
                 if each["if"]["properties"]["policy"]["const"] == kind)["then"]  # fmt: skip
    assert set(found["properties"]) == {*(option.key for option in schema.POLICIES[kind]), *schema.RULE_KEYS}
    base = {"match": "a:*", "policy": kind} | ({"threshold": "1s"} if kind == "profile_if_slow" else {})
    for option in schema.POLICIES[kind]:
        shown = found["properties"][option.key]
        assert ("default" in shown) is (option.default is not None)
        if "default" not in shown:
            continue
        policy = {"version": 1, "rules": [{**base, option.key: copy.deepcopy(shown["default"])}]}
        assert VALIDATOR.is_valid(policy), option.key
        assert config.from_mapping(policy, env={}).rules[0].options[option.field] == option.default


def test_settings_and_their_defaults_are_in_it() -> None:
    assert tuple(DOCUMENT["properties"]) == schema.TOP_KEYS
    defaults = {key: each["default"] for key, each in DOCUMENT["properties"].items() if "default" in each}
    policy = config.from_mapping(defaults, env={})
    plain = config.from_mapping({"version": 1}, env={})
    for option in schema.SETTINGS:
        assert getattr(policy, option.field) == getattr(plain, option.field), option.key


def test_its_patterns_are_those_of_every_language() -> None:
    """Editors use ECMAScript's regular expressions: no inline flags, no named groups, no \\A."""
    assert "(?" not in json.dumps(DOCUMENT) and "\\\\A" not in json.dumps(DOCUMENT)
