"""Policy files that are refused: every error with its place and what to do, all of them at once."""

from __future__ import annotations

import pytest

from autoprof.errors import PolicyErrors
from tests.policy_texts import CONTRACT, HEAD, WAYS, errors, loads, parse_by


@pytest.fixture(params=WAYS)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with every way to parse."""
    parse_by(request.param, monkeypatch)
    return str(request.param)


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
