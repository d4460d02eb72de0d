"""The exceptions: their texts, their places, and that no message breaks a line."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprof import errors


def test_every_error_is_an_autoprof_error() -> None:
    for kind in (
        errors.BadValue,
        errors.UnitError,
        errors.OptionError,
        errors.PolicyError,
        errors.PolicyErrors,
    ):
        assert issubclass(kind, errors.AutoprofError)
    assert issubclass(errors.StoreError, errors.AutoprofError)
    assert issubclass(errors.UnitError, ValueError)
    assert issubclass(errors.OptionError, ValueError)


def test_a_policy_error_says_where_and_what() -> None:
    error = errors.PolicyError("policy.yaml", 3, 7, "unknown key")
    assert str(error) == "policy.yaml:3:7: unknown key"
    assert (error.file, error.line, error.column, error.message) == ("policy.yaml", 3, 7, "unknown key")
    assert str(errors.PolicyError("<policy>", 0, 0, "rules[0]: bad")) == "<policy>: rules[0]: bad"


def test_policy_errors_are_one_line_each() -> None:
    both = errors.PolicyErrors([errors.PolicyError("a", 1, 2, "x"), errors.PolicyError("a", 3, 4, "y")])
    assert str(both) == "a:1:2: x\na:3:4: y"
    assert len(both.errors) == 2


@pytest.mark.parametrize(
    "error",
    [
        errors.PolicyError("f", 1, 2, "m"),
        errors.PolicyErrors([errors.PolicyError("f", 1, 2, "m")]),
        errors.OptionError("no"),
        errors.UnitError("problem", "right"),
    ],
)
def test_errors_travel_between_processes(error: Exception) -> None:
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_bad_value_says_what_was_given_what_is_right_and_what_was_meant() -> None:
    error = errors.BadValue("unknown word", "known: a, b", given="aa", suggestion="a")
    assert str(error) == "unknown word, given 'aa'; known: a, b (did you mean a?)"


def test_a_long_value_is_cut_and_control_characters_are_escaped() -> None:
    assert errors.shown("x" * 200) == "'" + "x" * 80 + "…'"
    assert errors.shown("a\x1b[31m\n\ud800") == "'a\\x1b[31m\\n\\ud800'"
    assert errors.shown(10**5000) == "a value of type int"


def test_the_nearest_word_is_found_whatever_its_case() -> None:
    assert errors.nearest("Sample", ["sample", "memory"]) == "sample"
    assert errors.nearest("sample-rate", ["sample_rate", "rate"]) == "sample_rate"
    assert errors.nearest("zzz", ["sample", "memory"]) is None
    assert errors.nearest("x" * 10_000_000, ["sample"]) is None


@given(st.text(), st.text())
def test_no_message_ever_breaks_a_line(file: str, value: str) -> None:
    error = errors.PolicyError(file, 1, 1, errors.told("bad", errors.shown(value), "write x", value))
    assert str(error).isprintable()
    assert len(str(error).splitlines()) == 1
    str(error).encode("utf-8")
