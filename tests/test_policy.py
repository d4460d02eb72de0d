"""Globs, which rule wins, decisions and their reasons."""

from __future__ import annotations

import timeit
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprof import schema
from autoprof.errors import BadValue
from autoprof.globs import compile_glob
from autoprof.policy import Decision, Pattern, Policy, Rule


def rule(
    index: int,
    policy: str,
    *match: str,
    excepts: tuple[str, ...] = (),
    name: str | None = None,
    **options: object,
) -> Rule:
    given = {**schema.complete_options(policy, {"env": None}), **options}
    return Rule(
        index, policy, [Pattern(text) for text in match], given, excepts=[Pattern(text) for text in excepts],
        name=name, line=index + 1,
    )  # fmt: skip


def policy(*rules: Rule, **settings: object) -> Policy:
    return Policy(rules, settings=settings)


def kinds(decision: Decision) -> list[tuple[str, int]]:
    return [(grant.kind, grant.rule.index) for grant in decision.grants]


# Globs


@pytest.mark.parametrize(
    ("glob", "module", "qualname", "expected"),
    [
        ("shop.payments:*", "shop.payments", "charge", True),
        ("shop.payments:*", "shop.payments", "Card.charge", True),
        ("shop.payments:*", "shop.payments", "Card.charge.<locals>.inner", True),
        ("shop.payments:*", "shop.payments.card", "charge", False),
        ("shop.*:*", "shop", "f", False),
        ("shop.*:*", "shop.db.orders", "f", True),
        ("shop:*", "shop", "f", True),
        ("shop:*", "shop.db", "f", False),
        ("shop*:*", "shop", "f", True),
        ("shop.db.*:Repo.*", "shop.db.orders", "Repo.find", True),
        ("shop.db.*:Repo.*", "shop.db.orders", "Repo", False),
        ("shop.db:find_?", "shop.db", "find_a", True),
        ("shop.db:find_?", "shop.db", "find_ab", False),
        ("shop.[!d]*:*", "shop.db", "f", False),
        ("shop.[!d]*:*", "shop.api", "f", True),
        ("shop:Find", "shop", "find", False),
        ("*:f", "shop", "f", True),
        ("*:f", "json", "f", False),
        ("*:f", "json.decoder", "f", False),
        ("*json:f", "json", "f", False),
        ("json:f", "json", "f", True),
        ("json.*:*", "json.decoder", "f", True),
        ("*:*", "__main__", "f", True),
        ("*:*", "jsonschema", "f", True),
        ("shop:*", "shop", "<lambda>", False),
        ("shop:*", "shop", "f.<locals>.<listcomp>", False),
        ("shop:*", "shop", "f.<locals>.<lambda>.<locals>.g", True),
        ("shop:<lambda>", "shop", "<lambda>", True),
        ("shop:*<lambda>", "shop", "f.<locals>.<lambda>", True),
        ("shop:*.<locals>.*", "shop", "f.<locals>.<genexpr>", True),
        ("shop:<*", "shop", "<module>", False),
        ("shop:<*", "shop", "<generic parameters of f>", False),
        ("shop:*", "shop", "f.__annotate__", False),
        ("größe:straße", "größe", "straße", True),
    ],
)
def test_what_a_glob_selects(glob: str, module: str, qualname: str, expected: bool) -> None:
    assert Pattern(glob).matches(module, qualname) is expected
    granted = policy(rule(0, "profile", glob)).decide(module, qualname).grants
    assert bool(granted) is expected


@pytest.mark.parametrize(
    ("glob", "problem"),
    [
        ("shop", "without a colon"),
        ("shop::f", "more than one colon"),
        ("a:b:c", "more than one colon"),
        (":f", "no module before"),
        ("shop:", "no function after"),
        ("", "empty"),
        ("  ", "empty"),
        ("shop: f", "no space"),
        ("a:b, c:d", "no space"),
        ("shop..db:f", "empty part"),
        (".shop:f", "empty part"),
        ("shop:f.", "empty part"),
        ("shop:[a", "[ without its ]"),
        ("shop:[z-a]", "empty range"),
        ("shop/db.py:f", "not a path"),
        ("shop:f()", "a character that no name has"),
        ("shop:a-b", "a character that no name has"),
        ("shop:{a,b}", "a character that no name has"),
        ("shop:a]", "a character that no name has"),
        ("shop:1f", "starts with a digit"),
        ("x" * 2000 + ":*", "2002 characters"),
        (5, "not a glob"),
        (None, "not a glob"),
    ],
)
def test_a_glob_that_can_never_match_is_refused(glob: object, problem: str) -> None:
    with pytest.raises(BadValue) as caught:
        Pattern(glob)  # type: ignore[arg-type]
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "glob", ["my-script:*", "a[-b]:*", "a:[!a-z]*", "a:[]]*", "*:*", "**:?*", "a.*.b:*.c"]
)
def test_odd_but_meaningful_globs_are_taken(glob: str) -> None:
    assert Pattern(glob).text == glob


def test_names_are_compared_in_the_form_python_keeps_them() -> None:
    decomposed = "shop:cafe\u0301"
    assert Pattern(decomposed).matches("shop", "caf\u00e9")


GLOB = st.text("ab.*?[]!-<", max_size=12)
NAME = st.text("ab.<-]", max_size=12)


@given(GLOB, NAME)
def test_matching_is_fnmatchcase(glob: str, name: str) -> None:
    assert compile_glob(glob)(name) is fnmatchcase(name, glob)


@given(
    st.lists(st.sampled_from(["a", "b", "ab", "*", ".", "**"]), max_size=10).map("".join),
    st.text("ab.", max_size=14),
)
def test_matching_stars_is_fnmatchcase(glob: str, name: str) -> None:
    assert compile_glob(glob)(name) is fnmatchcase(name, glob)


@pytest.mark.parametrize("glob", ["*a" * 200 + "b", "?*a" * 200, "[ab]*" * 150])
def test_no_glob_is_slow(glob: str) -> None:
    matches = compile_glob(glob)
    assert timeit.timeit(lambda: matches("a" * 5000), number=1) < 0.2


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_a_bad_value(text: str) -> None:
    try:
        pattern = Pattern(text)
    except BadValue as error:
        assert str(error).isprintable()
    else:
        assert pattern.matches("a", "b") in (True, False)


# Which rule


def test_the_first_rule_of_a_kind_wins() -> None:
    made = policy(rule(0, "profile", "shop:f"), rule(1, "profile", "shop:*", strategy="memory"))
    assert kinds(made.decide("shop", "f")) == [("profile", 0)]
    assert kinds(made.decide("shop", "g")) == [("profile", 1)]


def test_different_kinds_stack_the_first_rule_outermost() -> None:
    made = policy(
        rule(0, "profile_memory", "shop:*"), rule(1, "profile", "shop:*"), rule(2, "flame_graph", "a:*")
    )
    assert kinds(made.decide("shop", "f")) == [("profile_memory", 0), ("profile", 1)]


def test_none_keeps_what_was_given_and_gives_nothing_more() -> None:
    made = policy(rule(0, "profile", "shop:*"), rule(1, "none", "shop:*"), rule(2, "flame_graph", "shop:*"))
    decision = made.decide("shop", "f")
    assert kinds(decision) == [("profile", 0)]
    assert decision.none
    assert "flame_graph" in decision.blocked_kinds
    assert "profile" not in decision.blocked_kinds


def test_a_module_of_which_nothing_is_profiled_is_not_covered() -> None:
    made = policy(rule(0, "none", "shop:*"))
    assert made.decide("shop", "f").none
    assert not made.covers("shop")


def test_except_skips_this_rule_only() -> None:
    made = policy(rule(0, "profile", "shop:*", excepts=("shop:_*",)), rule(1, "profile", "*:_*"))
    assert kinds(made.decide("shop", "_f")) == [("profile", 1)]
    assert kinds(made.decide("shop", "f")) == [("profile", 0)]


@pytest.mark.parametrize("excluded", [{"env": ("prod",)}, {"enabled": False}])
def test_a_rule_that_env_or_enabled_excludes_does_not_match(excluded: dict[str, Any]) -> None:
    made = policy(rule(0, "profile", "shop:*", **excluded), rule(1, "profile", "shop:*"))
    assert kinds(made.decide("shop", "f")) == [("profile", 1)]
    assert [one.index for one in made.active_rules] == [1]


def test_an_excluded_none_stops_nothing() -> None:
    made = policy(rule(0, "none", "shop:*", env=("prod",)), rule(1, "profile", "shop:*"))
    decision = made.decide("shop", "f")
    assert kinds(decision) == [("profile", 1)]
    assert not decision.none


def test_the_time_of_a_rule_ends() -> None:
    now = [1_000]
    timed = rule(0, "profile", "shop:*", for_ns=500)
    made = Policy([timed, rule(1, "profile", "shop:*")], clock=lambda: now[0])
    assert kinds(made.decide("shop", "f")) == [("profile", 0)]
    now[0] = 1_500
    assert kinds(made.decide("shop", "f")) == [("profile", 1)]
    assert "time is over" in made.decide("shop", "f").reasons[0]


@pytest.mark.parametrize(
    "module", ["autoprof", "autoprof.gate", "site", "importlib._bootstrap", "importlib._bootstrap_external"]
)
def test_some_modules_are_never_profiled(module: str) -> None:
    made = policy(rule(0, "profile", "*:*", f"{module}:*"))
    assert not made.covers(module)
    assert not made.decide(module, "f").grants
    assert "never profiled" in made.decide(module, "f").reasons[0]


def test_a_module_that_only_looks_like_ours_is_profiled() -> None:
    assert policy(rule(0, "profile", "*:*")).covers("autoprofile")


def test_main_goes_by_all_its_names() -> None:
    made = policy(rule(0, "profile", "pkg.tool:f"), rule(1, "profile", "__main__:g"))
    assert made.decide("__main__", "f", ("pkg.tool",)).target == "__main__:f"
    assert kinds(made.decide("__main__", "f", ("pkg.tool",))) == [("profile", 0)]
    assert made.decide("pkg.tool", "g", ("__main__",)).target == "__main__:g"
    assert kinds(made.decide("__mp_main__", "g")) == [("profile", 1)]
    assert made.decide("__mp_main__", "g").target == "__main__:g"
    assert made.covers("__mp_main__")


def test_every_rule_has_its_reason() -> None:
    made = policy(
        rule(0, "profile", "shop:f", env=("prod", "stage")),
        rule(1, "profile", "shop:f", enabled=False),
        rule(2, "profile", "other:*"),
        rule(3, "profile", "shop:g*"),
        rule(4, "profile", "shop:*", excepts=("*:f",)),
        rule(5, "profile", "shop:f", name="mine"),
        rule(6, "profile", "shop:f"),
        rule(7, "none", "shop:f"),
        rule(8, "flame_graph", "shop:f"),
    )
    reasons = made.decide("shop", "f").reasons
    for reason, part in zip(
        reasons,
        [
            "rule 1: it is for the environment prod or stage, and this is dev",
            "rule 2: it is disabled",
            "rule 3: the module shop does not match other",
            "rule 4: the function f does not match g*",
            "rule 5: excluded by except: *:f",
            "mine: shop:f matches",
            "rule 7: it matches, but mine already gives profile",
            "rule 8: shop:f matches, nothing more is given",
            "rule 9: not tried: rule 8 ended the search",
        ],
        strict=True,
    ):
        assert reason.startswith(part)


def test_the_reason_names_the_standard_library_and_lambdas() -> None:
    made = policy(rule(0, "profile", "*:*"))
    assert "standard library" in made.decide("json", "dumps").reasons[0]
    assert "the glob says <" in made.decide("shop", "<lambda>").reasons[0]


MODULES = st.sampled_from(["shop", "shop.db", "shop.db.orders", "json", "__main__", "autoprof.gate", "other"])
NAMES = st.sampled_from(
    ["f", "_f", "C.m", "f.<locals>.g", "<lambda>", "f.<locals>.<listcomp>", "__annotate__"]
)
GLOBS = st.sampled_from(
    ["shop:*", "shop.*:*", "*:*", "shop.db:C.*", "*:_*", "shop:<*", "json:?", "*.db*:*m*"]
)
RULES = st.lists(
    st.tuples(
        st.sampled_from(["profile", "flame_graph", "profile_calls", "none"]),
        st.lists(GLOBS, min_size=1, max_size=2), st.lists(GLOBS, max_size=1), st.booleans(),
    ),
    max_size=6,
)  # fmt: skip


@given(RULES, MODULES, NAMES)
def test_decisions_follow_the_plain_reading_of_the_rules(
    rules: list[tuple[str, list[str], list[str], bool]], module: str, qualname: str
) -> None:
    made = policy(*(rule(i, k, *m, excepts=tuple(e), enabled=on) for i, (k, m, e, on) in enumerate(rules)))
    expected: list[tuple[str, int]] = []
    ended = False
    for index, (kind, match, excepts, enabled) in enumerate(rules):
        if ended or not enabled or module.startswith("autoprof"):
            continue
        if not any(Pattern(text).matches(module, qualname) for text in match):
            continue
        if any(Pattern(text).matches(module, qualname) for text in excepts):
            continue
        if kind == "none":
            ended = True
        elif kind not in [known for known, _ in expected]:
            expected.append((kind, index))
    decision = made.decide(module, qualname)
    assert kinds(decision) == expected
    assert decision.none is ended
    assert not expected or made.covers(module)
    granting = [text for kind, match, _, on in rules if on and kind != "none" for text in match]
    reached = any(Pattern(text).matches_module(module) for text in granting)
    assert made.covers(module) is (reached and not module.startswith("autoprof"))
    applied = [one.index for one, applies, _ in decision.trace() if applies and one.policy != "none"]
    assert applied == [index for _, index in expected]


def test_the_caches_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoprof.policy._CACHED_MODULES", 10)
    made = policy(rule(0, "profile", "m*:*"))
    for index in range(100):
        assert made.covers(f"m{index}")
        assert made.decide(f"m{index}", "f").grants
    assert len(made._covers) <= 10
    assert len(made._plans) <= 10


def test_programs() -> None:
    assert policy().applies_to_program("anything")
    made = policy(programs=("gunicorn*", "python3.?"))
    assert made.applies_to_program("gunicorn: worker")
    assert made.applies_to_program("python3.1")
    assert not made.applies_to_program("celery")


def test_the_defaults_without_a_file() -> None:
    made = Policy()
    assert (made.env, made.rewrite, made.budget, made.reload_ns) == ("dev", "auto", 0.01, 10**9)
    assert (made.load_cpu, made.load_memory, made.output, made.output_mode) == (
        0.8,
        0.9,
        "./autoprof-data",
        0o600,
    )
    assert (made.store_max_size_bytes, made.store_max_age_ns) == (256_000_000, 7 * 86_400 * 10**9)
    assert made.rules == () and made.exporters == () and made.path is None
