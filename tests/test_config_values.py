"""Values of policy files: how they are read, and what variables of the environment put into them."""

from __future__ import annotations

import pytest

from autoprof.errors import PolicyErrors
from tests.policy_texts import HEAD, WAYS, errors, loads, options, parse_by

SECRET = "hunter2-5KB"


@pytest.fixture(params=WAYS)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with every way to parse."""
    parse_by(request.param, monkeypatch)
    return str(request.param)


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
