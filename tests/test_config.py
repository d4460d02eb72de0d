"""Policy files: what is read, what is refused, and that any file at all gives a clear message, and soon."""

from __future__ import annotations

import os
import random
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from autoprof import config, schema, yamlparser
from autoprof.errors import PolicyErrors
from autoprof.policy import Policy

REPOSITORY = Path(__file__).resolve().parent.parent
HEAD = "version: 1\nrules:\n"
SECRET = "hunter2-5KB"


def loads(text: str | bytes, env: dict[str, str] | None = None, env_name: str | None = None) -> Policy:
    return config.loads(text, filename="p.yaml", env=env or {}, env_name=env_name)


def errors(text: str | bytes, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        loads(text, env)
    return [str(error) for error in caught.value.errors]


def options(lines: str, policy: str = "profile", env: dict[str, str] | None = None) -> dict[str, object]:
    text = f"{HEAD}  - match: shop:*\n    policy: {policy}\n" + "".join(
        f"    {line}\n" for line in lines.splitlines()
    )
    return loads(text, env).rules[0].options


PURE = yamlparser.Yaml(yaml.SafeLoader, yaml.events, yaml.MarkedYAMLError)
WAYS = ("parts", "libyaml", "pure")


def parse_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read policies with some modules of PyYAML where the text allows it, with libyaml, or with PyYAML's own parser."""
    if way != "parts":
        monkeypatch.setattr(yamlparser, "suits_parts", lambda text: False)
    if way == "pure":
        monkeypatch.setattr(yamlparser, "whole", lambda: PURE)
        monkeypatch.setattr(yamlparser, "is_fast", lambda: False)


@pytest.fixture(params=WAYS)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with every way to parse."""
    parse_by(request.param, monkeypatch)
    return str(request.param)


CONTRACT = """\
version: 1
env: ${APP_ENV:-dev}
service: shop                 # labels
programs: ["gunicorn*", "python*"]
output: ./autoprof-data
store: {max_size: 256MB, max_age: 7d}
reload: 1s
budget: 1%
load: {cpu: 80%, memory: 90%}
rewrite: auto
exporters: []
rules:
  - name: payments
    match: shop.payments:*    # "<module glob>:<qualified-name glob>"
    except: shop.payments:_*
    policy: profile_production
    sample_rate: 0.1%
  - match: [shop.db.*:find_*, shop.db.*:Repo.*]
    policy: profile_if_slow
    threshold: 100ms
    rate: 1.0
    env: [dev, prod]
    for: 10m
"""


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


def vars_of(policy: Policy) -> dict[str, object]:
    names = [
        name for name in Policy.__slots__ if not name.startswith("_") and name not in ("rules", "loaded_ns")
    ]
    return {name: getattr(policy, name) for name in names}


# Errors


def test_all_errors_at_once_each_with_its_place(parser: str) -> None:
    text = (
        "env: ${NOPE}\n"
        "bugdet: 5\n"
        "rules:\n"
        "  - match: [shop, shop:*, 'a b:c']\n"
        "    policy: profil\n"
        "    rtae: 3\n"
        "  - match: shop:*\n"
        "    policy: profile\n"
        "    rate: 50\n"
        "    rate: 2\n"
        "    threshold: 5KB\n"
        "    async_: true\n"
        "exporters: [promtheus, log]\n"
    )
    found = errors(text)
    expected = [
        ("1:1", "the key version is missing"),
        ("1:6", "the environment variable NOPE is not set, given '${NOPE}'"),
        ("2:1", "unknown key, given 'bugdet'", "(did you mean budget?)"),
        ("4:13", "a glob without a colon, given 'shop'", "(did you mean 'shop:*'?)"),
        ("4:27", "a glob holds no space", "given 'a b:c'"),
        ("5:13", "unknown policy, given 'profil'", "(did you mean profile?)"),
        ("6:5", "unknown key in a rule, given 'rtae'", "(did you mean rate?)"),
        ("9:11", "a share is at most 1 (100%), given '50'", "(did you mean 50%?)"),
        ("10:5", "a key that is there twice, given 'rate'; it is in line 9 already"),
        ("11:16", "a unit of size where a duration belongs, given '5KB'"),
        ("12:5", "unknown key for profile, given 'async_'", "(did you mean async?)"),
        ("13:13", "unknown exporter, given 'promtheus'", "(did you mean prometheus?)"),
    ]
    assert len(found) == len(expected)
    for line, (place, *parts) in zip(found, expected, strict=True):
        assert line.startswith(f"p.yaml:{place}: ")
        for part in parts:
            assert part in line


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("version: 2", "1:10", "this autoprof reads version: 1"),
        ("version: 1.0", "1:10", "unknown version"),
        ("version: on", "1:10", "unknown version"),
        ("version:", "1:9", "unknown version"),
        ("version: 1\nrate: 5", "2:1", "it belongs into a rule"),
        ("version: 1\nrules:", "2:7", "rules: [] profiles nothing"),
        ("version: 1\nrules: {a: b}", "2:8", "rules is a list, given a mapping"),
        ("version: 1\nrules: [a]", "2:9", "a rule is a mapping"),
        ("version: 1\nrewrite: magic", "2:10", "known: auto, splice, decorate"),
        ("version: 1\nbudget: 0", "2:9", "above 0"),
        ("version: 1\nbudget: 5ms", "2:9", "a unit of time where a share belongs"),
        ("version: 1\nreload: 1ms", "2:9", "at least 10ms"),
        ("version: 1\nload: 80%", "2:7", "load is a mapping"),
        ("version: 1\nload: {cpu: 180%}", "2:13", "at most 1"),
        ("version: 1\nload: {cpuu: 80%}", "2:8", "unknown key in load, given 'cpuu'"),
        ("version: 1\nstore: {max_size: 7d}", "2:19", "a unit of time where a size belongs"),
        ("version: 1\nstore: {max_size: 1KB}", "2:19", "at least 64KB"),
        ("version: 1\nstore: 5", "2:8", "store is a mapping"),
        ("version: 1\nservice: [a]", "2:10", "service is a mapping"),
        ("version: 1\nservice: {nmae: x}", "2:11", "(did you mean name?)"),
        ("version: 1\nexporters: log", "2:12", "exporters is a list"),
        ("version: 1\nexporters: [{log: 5}]", "2:13", "a name with its options"),
        ("version: 1\nexporters: [[log]]", "2:13", "an exporter is a name"),
        ("version: 1\nenv: a b", "2:6", "one word"),
        ("version: 1\nenv: [dev]", "2:6", "not the name of an environment, given a list"),
        ("version: 1\noutput: [x]", "2:9", "not text"),
        ("version: 1\noutput_mode: 0999", "2:14", "octal"),
        ("version: 1\noutput_mode: 0400", "2:14", "read and write"),
        ("version: 1\nprograms: []", "2:11", "leave every program out"),
        ("version: 1\nprograms: [[a]]", "2:12", "not text"),
        ("version: 1\nprograms: 5m\nprograms: x", "3:1", "twice"),
        (HEAD + "  - policy: profile", "3:5", "a rule without match"),
        (HEAD + "  - match: a:b", "3:5", "a rule without policy"),
        (HEAD + "  - {match: a:b, policy: null}", "3:26", "(did you mean none?)"),
        (HEAD + "  - {match: [], policy: none}", "3:13", "empty list"),
        (HEAD + "  - {match: {a: b}, policy: none}", "3:13", "not a glob, given a mapping"),
        (HEAD + "  - {match: a:b, policy: none, rate: 1}", "3:32", "none has no rate"),
        (HEAD + "  - {match: a:b, policy: profile_if_slow}", "3:5", "profile_if_slow needs threshold"),
        (HEAD + "  - {match: a:b, policy: profile, for: 0}", "3:40", "at least 1ms"),
        (HEAD + "  - {match: a:b, policy: profile, env: [dev, 'x y']}", "3:46", "one word"),
        (HEAD + "  - {match: a:b, policy: profile, metadata: {a: [1]}}", "3:49", "not a scalar"),
        (
            HEAD + "  - {match: a:b, policy: profile, format: dot}",
            "3:43",
            "strategy sample has no such format",
        ),
        (HEAD + "  - {match: a:b, policy: profile, strategy: [a]}", "3:45", "unknown strategy, given a list"),
        (HEAD + "  - {match: a:b, policy: flame_graph, interval: 1us}", "3:49", "at least 100us"),
        (HEAD + "  - {match: a:b, policy: [profile]}", "3:26", "unknown policy, given a list"),
        ("- version: 1", "1:1", "a policy is a mapping, given a list"),
        ("hello", "1:1", "a policy is a mapping"),
        ("version: 1\n---\nversion: 1\n", "2:1", "a second document"),
        ("? [a, b]\n: c\nversion: 1\n", "1:3", "a list as a key"),
        ("version: 1\nversion: 1", "2:1", "it is in line 1 already"),
        ("version: 1\n<<: 3", "2:1", "<< merges a mapping"),
        ("version: 1\nrules: &a [*a]", "2:12", "an alias inside what it stands for"),
    ],
)
def test_an_error_says_where_and_what(parser: str, text: str, place: str, message: str) -> None:
    (found,) = errors(text)
    assert found.startswith(f"p.yaml:{place}: ")
    assert message in found


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("*.db:*", "an unquoted * starts an alias in YAML, given '*.db:*'; put the glob in quotes"),
        ("*db:handler", "an unquoted * starts an alias"),
        ("*:*", "an unquoted * starts an alias"),
        ("[shop:*, *.a:b]", "an unquoted * starts an alias in YAML, given '*.a:b'"),
        ("*foo", "a value that starts with * is an alias in YAML; put a glob in quotes"),
        ("!x:*", "a tag"),
        ("@x:y", "is reserved in YAML: put it in quotes"),
        ("`x:y", "is reserved in YAML: put it in quotes"),
        ("%x:y", "is a directive in YAML: put it in quotes"),
        ("[ab]*:f", "a value that starts with [ is a list in YAML: put it in quotes"),
        ("shop: *", "quote a value that holds ': '"),
        ("[${A}, shop:*]", "inside [ ] and { } put ${…} in quotes"),
        ("[shop:*", "not YAML"),
    ],
)
def test_what_yaml_makes_of_globs_is_explained(parser: str, value: str, message: str) -> None:
    found = errors(f"{HEAD}  - match: {value}\n    policy: none\n")
    assert any(message in line for line in found), found
    assert all(line.startswith("p.yaml:") for line in found)


def test_after_an_unquoted_star_the_other_errors_are_told_too(parser: str) -> None:
    found = errors(
        HEAD + "  - match: *.db:*\n    policy: profil\n  - match: *.x:*\n    policy: profile\n    rtae: 1\n"
    )
    assert [line.split(": ")[0] for line in found] == [
        "p.yaml:3:12",
        "p.yaml:4:13",
        "p.yaml:5:12",
        "p.yaml:7:5",
    ]


def test_a_tab_is_named() -> None:
    assert "indent with spaces" in errors("version: 1\nrules:\n\t- match: a:b\n")[0]


@pytest.mark.parametrize("cut", range(9, len(CONTRACT), 7))
def test_a_half_written_file_is_read_or_refused(cut: int) -> None:
    try:
        loads(CONTRACT[:cut])
    except PolicyErrors as caught:
        assert all(error.line for error in caught.errors)


# Values


@pytest.mark.parametrize(
    ("line", "field", "expected"),
    [
        ("rate: 0.1%", "rate", 0.001),
        ("rate: 1e-3", "rate", 0.001),
        ("rate: 1", "rate", 1.0),
        ("rate: '0.5'", "rate", 0.5),
        ("duration: 500", "duration_ns", 5 * 10**8),
        ("threshold: none", "threshold_ns", None),
        ("threshold: ~", "threshold_ns", None),
        ("threshold: 0.5ms", "threshold_ns", 500_000),
        ("env: prod", "env", ("prod",)),
        ("env: no", "env", ("no",)),
        ("env: [on, off]", "env", ("on", "off")),
        ("env: null", "env", None),
        ("enabled: off", "enabled", False),
        ("enabled: No", "enabled", False),
        ("enabled: '0'", "enabled", False),
        ("enabled: 1", "enabled", True),
        ("async: yes", "asynchronous", True),
        ("every: off", "every_ns", None),
        ("every: 1m", "every_ns", 60 * 10**9),
        ("output: '{target}.svg'", "output", "{target}.svg"),
        ("output: 2024-01-01", "output", "2024-01-01"),
        ("output: ~", "output", None),
        ("for: null", "for_ns", None),
        ("for: 1h", "for_ns", 3600 * 10**9),
        ("metadata:", "metadata", {}),
        (
            "metadata: {a: 1, b: 1.5, c: on, d: ~, e: '1', f: 1:30, g: 0123, h: 1e-3, j: 2024-01-01}",
            "metadata",
            {"a": 1, "b": 1.5, "c": True, "d": None, "e": "1", "f": "1:30", "g": "0123", "h": 0.001,
             "j": "2024-01-01"},
        ),
    ],
)  # fmt: skip
def test_values(parser: str, line: str, field: str, expected: object) -> None:
    assert options(line)[field] == expected


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("budget: off", "budget", None),
        ("budget: 5%", "budget", 0.05),
        ("reload: off", "reload_ns", None),
        ("reload: never", "reload_ns", None),
        ("reload: 500ms", "reload_ns", 5 * 10**8),
        ("load: off", "load_cpu", None),
        ("load: off", "load_memory", None),
        ("load: {cpu: off}", "load_cpu", None),
        ("load: {cpu: off}", "load_memory", 0.9),
        ("output_mode: 0640", "output_mode", 0o640),
        ("output_mode: '640'", "output_mode", 0o640),
        ("output_mode: 0o666", "output_mode", 0o666),
        ("programs: python*", "programs", ("python*",)),
        ("rewrite: splice", "rewrite", "splice"),
        ("exporters: [log, {prometheus: {port: 9464, on: yes}}, {jsonl: }]", "exporters",
         (("log", {}), ("prometheus", {"port": 9464, "on": True}), ("jsonl", {}))),
        ("service: {name: shop, version: 1.10}", "service",
         {"service": "shop", "instance": None, "version": "1.10"}),
        ("env: off", "env", "off"),
        ("store: {max_age: 30d}", "store_max_age_ns", 30 * 86_400 * 10**9),
    ],
)  # fmt: skip
def test_settings(parser: str, text: str, field: str, expected: object) -> None:
    assert getattr(loads(f"version: 1\n{text}\n"), field) == expected


def test_base_60_is_explained() -> None:
    assert "base 60" in errors(HEAD + "  - {match: a:b, policy: profile, threshold: 1:30}")[0]


# Variables


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("${A}", "x"),
        ("pre-${A}-post", "pre-x-post"),
        ("${UNSET:-default}", "default"),
        ("${EMPTY:-default}", "default"),
        ("${UNSET:-}x", "x"),
        ("'${A}'", "x"),
        ("a$$b", "a$b"),
        ("$${A}", "${A}"),
        ("$A", "$A"),
        ("a$", "a$"),
        ("${URL}", "http://h:1/$x"),
        ("${UNSET:-http://h:1}", "http://h:1"),
    ],
)
def test_variables(parser: str, written: str, expected: str) -> None:
    env = {"A": "x", "EMPTY": "", "URL": "http://h:1/$x"}
    assert loads(f"version: 1\nservice: {written}\n", env).service["service"] == expected


def test_what_a_variable_holds_is_typed_again_even_in_quotes(parser: str) -> None:
    found = options(
        'enabled: "${DEEP:-false}"\nrate: "${RATE}"\nenv: ["${E}", prod]\nmetadata: {n: "${N}", s: "5"}',
        env={"RATE": "0.5", "E": "stage", "N": "7"},
    )
    assert (found["enabled"], found["rate"], found["env"]) == (False, 0.5, ("stage", "prod"))
    assert found["metadata"] == {"n": 7, "s": "5"}
    assert options("threshold: ${T:-null}")["threshold_ns"] is None


def test_what_a_variable_holds_is_one_scalar_and_no_yaml() -> None:
    text = "version: 1\nservice: ${A}\n"
    assert loads(text, {"A": "[a, b] # {x: y}"}).service["service"] == "[a, b] # {x: y}"
    assert "printable" in errors(text, {"A": "x\nrules: []"})[0]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("${A", "a ${ without its }"),
        ("${}", "not a variable"),
        ("${A-b}", "not a variable"),
        ("${A:?b}", "not a variable"),
        ("${1A}", "not a variable"),
        ("${A:-${B}}", "inside the default"),
        ("${NOPE}", "NOPE is not set"),
    ],
)
def test_wrong_variables(written: str, message: str) -> None:
    (found,) = errors(f"version: 1\nservice: {written}\n", {"A": "x"})
    assert message in found
    assert found.startswith("p.yaml:2:10: ")


SECRET_PLACES = [
    "env: ${S} x",
    "service: [${S}]",
    "budget: ${S}",
    "reload: ${S}",
    "rewrite: ${S}",
    "exporters: ['${S}']",
    "output_mode: ${S}",
    "store: {max_size: '${S}', max_age: '${S}'}",
    "load: {cpu: '${S}'}",
    "version: ${S}",
    "'${S}': 5",
    "rules: ${S}",
    "rules: ['${S}']",
    "rules: [{match: '${S}', policy: '${S}'}]",
    "'${S}x': {'${S}': 1}",
    "rules: [{match: 'a:${S}', policy: profile, rate: '${S}', threshold: '${S}', env: '${S} x'}]",
    "rules: [{match: a:b, policy: flame_graph, output: '{${S}}', format: '${S}', '${S}': 1}]",
    "rules: [{match: a:b, policy: profile, metadata: {'${S}': ['${S}']}, strategy: '${S}', for: '${S}'}]",
]


@pytest.mark.parametrize("text", SECRET_PLACES)
@pytest.mark.parametrize("secret", [SECRET, "profilehunter2", "s:hunter2:x", "hunter2 %", "1:hunter2"])
def test_no_error_shows_what_a_variable_held(text: str, secret: str) -> None:
    head = "" if text.startswith("version") else "version: 1\n"
    try:
        loads(head + text, {"S": secret})
    except PolicyErrors as caught:
        assert "hunter2" not in str(caught)
        assert "${S}" in str(caught) or "given" not in str(caught)


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


HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"  \n \n",
    "only comments": b"# x\n",
    "only ---": b"---\n",
    "zeros": b"\0" * 100,
    "random": random.Random(1).randbytes(50_000),
    "latin 1": "version: 1 # \xe9".encode("latin-1"),
    "utf-16": "version: 1".encode("utf-16"),
    "utf-8 cut": "version: é".encode()[:-1],
    "surrogate": b"version: 1\nenv: \xed\xa0\x80\n",
    "escaped surrogate": b'version: 1\nenv: "\\ud800"\n',
    "escaped control": b'version: 1\nservice: "a\\x1b[31m\\n"\n',
    "10 MB": b"a: 1\n" * 2_000_000,
    "one long scalar": b"a" * 1_048_000,
    "one long string": b'version: 1\nservice: "' + b"x" * 1_000_000 + b'"',
    "dashes": b"- " * 500_000,
    "brackets": b"[" * 1_000_000,
    "braces": b"{a: " * 200_000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(1_000)),
    "questions": b"? " * 400_000,
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghijkl"),
    "merge bomb": ("a: &a {" + ", ".join(f"k{i}: 1" for i in range(10_000)) + "}\n").encode()
    + b"".join(b"b%d: {<<: *a}\n" % i for i in range(1_000)),
    "many rules": HEAD.encode() + b"  - {match: a:b, policy: profile}\n" * 20_000,
    "many bad rules": HEAD.encode() + b"  - {match: ab, polcy: profile}\n" * 9_000,
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(24_000)),
    "one key": b"k: 1\n" * 24_000,
    "many stars": HEAD.encode() + b"".join(b"  - match: *.a%d:*\n" % i for i in range(20_000)),
    "many anchors": b"rules:\n" + b"".join(b"- &a%d x\n" % i for i in range(24_000)),
    "many tags": b"rules:\n" + b"- !x y\n" * 24_000,
    "many newlines": b"\n" * 1_000_000 + b"version: 1",
    "dollars": b'version: 1\nservice: "' + b"${" * 400_000 + b'"',
    "growing": b'version: 1\nservice: "' + b"${BIG}" * 10_000 + b'"',
    "digits": b"version: 1\nbudget: " + b"9" * 1_000_000,
    "exclamation": b"!" * 1_000_000,
    "ampersands": b"&a " * 300_000,
    "pipes": b"|\n" * 500_000,
    "quotes": b"'" * 1_000_001,
    "flow keys": b"{" + b",".join([b"? a"] * 200_000) + b"}",
    "yaml 9.9": b"%YAML 9.9\n---\nversion: 1\n",
    "elf": b"\x7fELF\x02\x01\x01",
    "json": b'{"version": 2, "rules": [{"match": "a:b"}]}',
    "html": b"<html><body class='x'>404</body></html>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gives_a_message_and_soon(name: str) -> None:
    started = time.process_time()
    try:
        loads(HOSTILE[name], {"BIG": "x" * 50_000})
    except PolicyErrors as caught:
        lines = [str(error) for error in caught.errors]
    else:
        lines = []
    took_s = time.process_time() - started
    assert took_s < 10  # processor time; what these files are made for is minutes, or for ever
    assert lines or name == "many newlines"
    assert len(lines) <= 101
    for line in lines:
        assert re.match(r"p\.yaml:\d+:\d+: .", line)
        assert line.isprintable()
        assert len(line) < 700


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_without_libyaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_by("pure", monkeypatch)
    data = HOSTILE[name]
    if 20_000 < len(data) <= config.MAX_BYTES_SLOW:
        data = data[:20_000]
    try:
        loads(data)
    except PolicyErrors as caught:
        assert all(re.match(r"p\.yaml:\d+:\d+: .", str(error)) for error in caught.errors)


PIECES = st.sampled_from(
    [
        "version: 1\n",
        "rules:\n",
        "  - ",
        "match: ",
        "policy: ",
        "profile",
        "none",
        "a:b",
        "*",
        "&a",
        "*a",
        "<<: ",
        "!x ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ": ",
        ":",
        "-",
        "\n",
        "\n    ",
        "'",
        '"',
        "#",
        "|",
        ">",
        "%",
        "@",
        "`",
        "\t",
        "${A}",
        "${",
        "$$",
        "1",
        "off",
        "~",
        "1:30",
        "rate: ",
        "env: ",
        "\u2028",
        "\x85",
        "\\",
        "é",
        "\U0001f600",
        "\r",
        "?",
        "---\n",
    ]
)


@given_by(st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_policy_or_policy_errors(text: str) -> None:
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            parse_by(way, patch)
            try:
                loads(text, {"A": "x"})
            except PolicyErrors as caught:
                assert caught.errors
                assert all(str(error).isprintable() and error.line for error in caught.errors)


@given_by(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_policy_or_policy_errors(data: bytes | str) -> None:
    try:
        loads(data)
    except PolicyErrors as caught:
        assert caught.errors


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
