"""Policy files: what is read, out of files, variables and Python values, and what the manual says of it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from autoprof import config, schema
from autoprof.errors import PolicyErrors
from autoprof.policy import Policy
from tests.policy_texts import CONTRACT, HEAD, WAYS, errors, loads, parse_by, vars_of

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(params=WAYS)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with every way to parse."""
    parse_by(request.param, monkeypatch)
    return str(request.param)


def test_the_file_of_the_contract(parser: str) -> None:
    policy = loads(CONTRACT)
    first, second = policy.rules
    assert (first.name, first.label, first.line, first.column) == ("payments", "payments", 13, 5)
    assert [p.text for p in first.excepts] == ["shop.payments:_*"]
    assert (first.policy, first.options["rate"]) == ("profile_production", 0.001)
    assert [p.text for p in second.match] == ["shop.db.*:find_*", "shop.db.*:Repo.*"]
    assert (second.label, second.line, second.for_ns) == ("rule 2", 18, 600 * 10**9)
    assert (second.options["threshold_ns"], second.options["env"]) == (10**8, ("dev", "prod"))
    assert policy.env == "dev"
    assert policy.service == {"service": "shop", "instance": None, "version": None}
    assert policy.programs == ("gunicorn*", "python*")
    assert policy.path == "p.yaml"


def test_the_least_file() -> None:
    policy = loads("version: 1")
    assert policy.rules == ()
    assert policy.inactive == ()
    assert vars_of(policy) == {**vars_of(Policy()), "path": "p.yaml"}


# The environment of the process


def test_the_environments_name() -> None:
    text = "version: 1\nenv: file\n"
    assert loads(text).env == "file"
    assert loads(text, {"AUTOPROF_ENV": "variable"}).env == "variable"
    assert loads(text, {"AUTOPROF_ENV": ""}).env == "file"
    assert loads(text, {"AUTOPROF_ENV": "variable"}, env_name="argument").env == "argument"
    assert loads("version: 1").env == "dev"


def test_output_and_labels_come_from_the_environment_too() -> None:
    env = {"AUTOPROF_OUTPUT": "/elsewhere", "OTEL_SERVICE_NAME": "otel", "HOSTNAME": "box"}
    policy = loads("version: 1\noutput: here\n", env)
    assert policy.output == "/elsewhere"
    assert policy.service == {"service": "otel", "instance": "box", "version": None}
    policy = loads("version: 1\nservice: {name: mine, instance: one, version: '3'}\n", env)
    assert policy.service == {"service": "mine", "instance": "one", "version": "3"}


def test_a_rule_for_another_environment_is_not_active() -> None:
    text = HEAD + "  - {match: a:b, policy: profile_calls}\n"
    assert loads(text).decide("a", "b").grants
    assert not loads(text, {"AUTOPROF_ENV": "prod"}).decide("a", "b").grants
    assert loads(text, {"AUTOPROF_ENV": "prod"}).warnings == ()
    (warning,) = loads(text, {"AUTOPROF_ENV": "staging"}).warnings
    assert "no rule is active in the environment 'staging'" in warning


def test_what_is_not_built_yet_is_named() -> None:
    text = (
        "version: 1\nbudget: 1%\nload: off\nreload: off\nexporters: []\nrules:\n"
        "  - {match: a:b, policy: profile_memory, for: 1h}\n"
        "  - {match: a:b, policy: profile, strategy: cprof}\n"
        "  - {match: a:b, policy: profile, for: null}\n"
    )
    later = {"budget": "budget" in schema.LATER_KEYS, "for": "for" in schema.LATER_KEYS,
             "policy: profile_memory": "profile_memory" in schema.LATER_POLICIES,
             "strategy: cprof": "cprof" in schema.LATER_STRATEGIES}  # fmt: skip
    assert set(loads(text).inactive) == {name for name, is_later in later.items() if is_later}


# YAML's other means


def test_anchors_aliases_and_merges(parser: str) -> None:
    policy = loads(
        HEAD + "  - &first {match: &glob a:b, policy: profile, rate: &rate 1}\n"
        "  - {<<: *first, match: c:d}\n"
        "  - {match: [*glob, e:f], policy: profile, rate: *rate}\n"
    )
    assert [p.text for p in policy.rules[1].match] == ["c:d"]
    assert policy.rules[1].options["rate"] == 1.0
    assert [p.text for p in policy.rules[2].match] == ["a:b", "e:f"]


def test_core_tags_are_harmless_and_others_refused() -> None:
    assert loads("version: !!int 1\nservice: !!str 5\n").service["service"] == "5"
    for tag in (
        "!!python/object/apply:os.system",
        "!!python/name:os.system",
        "!x",
        "!!timestamp",
        "!!binary",
    ):
        assert "a policy needs no tags" in errors(f"version: 1\nservice: {tag} x\n")[0]
    assert "no tags" in errors("!!python/object:os.system {version: 1}\n")[0]


def test_lines_and_columns_count_characters() -> None:
    assert errors("version: 1\r\nenv: é\U0001f600 x\r\n")[0].startswith("p.yaml:2:6: ")
    assert errors("\ufeffversion: 1\nx: 1\n".encode())[0].startswith("p.yaml:2:1: ")
    assert errors(f"{HEAD}  - {{name: \U0001f600, match: x, policy: none}}\n")[0].startswith("p.yaml:3:22: ")


# Files of all kinds


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(CONTRACT, encoding="utf-8")
    assert len(config.load(str(path), env={}).rules) == 2
    path.write_text("version: 3")
    with pytest.raises(PolicyErrors, match=re.escape(f"{path}:1:10: ")):
        config.load(str(path), env={})


def test_what_can_not_be_read_is_the_callers_business(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        config.load(str(tmp_path / "none.yaml"), env={})
    with pytest.raises(IsADirectoryError):
        config.load(str(tmp_path), env={})


# Policies made of Python values


def test_a_mapping_is_read_as_a_file_is() -> None:
    policy = config.from_mapping(
        {
            "version": 1, "service": "shop", "budget": False, "output_mode": 0o640, "load": {"cpu": 0.5},
            "rules": ({"match": ["a:b"], "policy": "profile", "rate": 0.5, "duration": 500, "enabled": True,
                       "env": {"dev"}, "metadata": {"a": "1", "b": 2, "c": None}, "output": Path("x.svg"),
                       "name": "${N}"},),
        },
        env={"N": "named"},
    )  # fmt: skip
    (rule,) = policy.rules
    assert (rule.label, rule.options["rate"], rule.options["duration_ns"]) == ("named", 0.5, 5 * 10**8)
    assert rule.options["metadata"] == {"a": "1", "b": 2, "c": None}
    assert rule.options["output"] == "x.svg"
    assert (policy.budget, policy.output_mode, policy.load_cpu) == (None, 0o640, 0.5)
    assert policy.path is None


def test_a_mapping_is_refused_with_paths() -> None:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    with pytest.raises(PolicyErrors) as caught:
        config.from_mapping(
            {
                "rules": [{"match": "a", "policy": "profile", "rate": "${S}9"}],
                "exporters": cyclic,
                5: object(),
            },
            env={"S": "hunter2"},
        )
    text = str(caught.value)
    assert "<policy>: the key version is missing" in text
    assert "<policy>: rules[0].match: a glob without a colon, given 'a'" in text
    assert "<policy>: rules[0].rate: not a share, given '${S}9'" in text
    assert "unknown key, given '5'" in text
    assert "hunter2" not in text


@pytest.mark.parametrize("value", [None, 5, "version: 1", [], object()])
def test_what_is_no_mapping_is_refused(value: object) -> None:
    with pytest.raises(PolicyErrors, match="a policy is a mapping"):
        config.from_mapping(value, env={})


# The manual


def manual() -> dict[str, object]:
    loaded = yaml.safe_load((REPOSITORY / "config" / "default.yaml").read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_manual_shows_every_key() -> None:
    shown = manual()
    assert set(shown) == set(schema.TOP_KEYS)
    assert set(shown["store"]) == {option.key for option in schema.STORE}  # type: ignore[call-overload]
    assert set(shown["load"]) == {option.key for option in schema.LOAD}  # type: ignore[call-overload]
    assert set(shown["service"]) == {option.key for option in schema.SERVICE}  # type: ignore[call-overload]
    rules = {rule["policy"]: rule for rule in shown["rules"]}  # type: ignore[attr-defined]
    assert set(rules) == set(schema.POLICIES)
    assert set(schema.RULE_KEYS) <= set(rules["profile"])
    for kind, rule in rules.items():
        assert {option.key for option in schema.POLICIES[kind]} == set(rule) - set(schema.RULE_KEYS)


def test_the_manual_shows_the_defaults() -> None:
    path = str(REPOSITORY / "config" / "default.yaml")
    shown = config.load(path, env={})
    short = "".join(
        f"  - {{match: '{rule.match[0].text}', policy: {rule.policy}"
        + (", threshold: 100ms" if rule.policy == "profile_if_slow" else "") + "}\n"
        for rule in shown.rules
    )  # fmt: skip
    plain = loads(HEAD + short)
    ignored = {"path", "inactive"}
    assert {k: v for k, v in vars_of(shown).items() if k not in ignored} == {
        k: v for k, v in vars_of(plain).items() if k not in ignored
    }
    for written, default in zip(shown.rules, plain.rules, strict=True):
        assert written.options == default.options
        assert (written.label, written.excepts) == (default.label, default.excepts)


def test_every_key_of_the_manual_has_a_sentence_at_its_first_use() -> None:
    lines = (REPOSITORY / "config" / "default.yaml").read_text("utf-8").splitlines()
    seen: set[str] = set()
    for line in lines:
        found = re.match(r"\s*(?:- )?([a-z_]+):", line)
        if found and found.group(1) not in seen and found.group(1) not in ("rules", "store", "match"):
            seen.add(found.group(1))
            assert " # " in line, line


@pytest.mark.parametrize("path", sorted((REPOSITORY / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_policy_we_ship_is_right(path: Path) -> None:
    assert config.load(os.fspath(path), env={}).rules
