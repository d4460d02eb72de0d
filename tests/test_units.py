"""Durations, sizes, shares and booleans, from text and back."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprof import units
from autoprof.errors import UnitError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("250us", 250_000),
        ("250µs", 250_000),  # U+00B5
        ("250μs", 250_000),  # U+03BC
        ("100ms", 100_000_000),
        ("2s", 2_000_000_000),
        ("1m", 60_000_000_000),
        ("1h", 3_600_000_000_000),
        ("7d", 604_800_000_000_000),
        ("7ns", 7),
        ("1.5 s", 1_500_000_000),
        (" 5ms ", 5_000_000),
        ("500", 500_000_000),
        (500, 500_000_000),
        (0.5, 500_000),
        ("1e-3", 1_000),
        ("1_000", 1_000_000_000),
        (0, 0),
    ],
)
def test_durations(text: object, expected: int) -> None:
    assert units.parse_duration_ns(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("64KB", 64_000),
        ("64kb", 64_000),
        ("64KiB", 65_536),
        ("50MB", 50_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("10000000", 10_000_000),
        (10_000_000, 10_000_000),
        ("1TB", 10**12),
        ("12B", 12),
    ],
)
def test_sizes(text: object, expected: int) -> None:
    assert units.parse_size_bytes(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.1%", 0.001), ("0.001", 0.001), (0.001, 0.001), ("1e-3", 0.001), ("100%", 1.0), (1, 1.0), (0, 0.0)],
)
def test_shares(text: object, expected: float) -> None:
    assert units.parse_share(text) == pytest.approx(expected)


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "ON", "1", 1, True])
def test_true(word: object) -> None:
    assert units.parse_bool(word) is True


@pytest.mark.parametrize("word", ["false", "no", "Off", "0", 0, False])
def test_false(word: object) -> None:
    assert units.parse_bool(word) is False


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (units.parse_duration_ns, "5KB", "a unit of size where a duration belongs"),
        (units.parse_duration_ns, "5%", "a unit of a share where a duration belongs"),
        (units.parse_duration_ns, "5min", "did you mean 5m?"),
        (units.parse_duration_ns, "5MS", "did you mean 5ms?"),
        (units.parse_duration_ns, "5sec", "did you mean 5s?"),
        (units.parse_duration_ns, "5 parsecs", "not a unit of a duration"),
        (units.parse_duration_ns, "1:30", "base 60"),
        (units.parse_duration_ns, "-5ms", "not negative"),
        (units.parse_duration_ns, "", "not a duration"),
        (units.parse_duration_ns, "ms", "not a duration"),
        (units.parse_duration_ns, "nan", "not a duration"),
        (units.parse_duration_ns, "inf", "not a duration"),
        (units.parse_duration_ns, float("nan"), "not a duration"),
        (units.parse_duration_ns, float("inf"), "not a duration"),
        (units.parse_duration_ns, "1e400s", "not a duration"),
        (units.parse_duration_ns, "1e18d", "this large"),
        pytest.param(units.parse_duration_ns, 10**5000, "this large", id="huge"),
        (units.parse_duration_ns, "１００ms", "not a duration"),
        (units.parse_duration_ns, True, "not a duration"),
        (units.parse_duration_ns, None, "not a duration"),
        (units.parse_duration_ns, [5], "not a duration"),
        (units.parse_size_bytes, "5ms", "a unit of time where a size belongs"),
        (units.parse_size_bytes, "64k", "did you mean 64KB?"),
        (units.parse_size_bytes, "5 apples", "not a unit of a size"),
        (units.parse_size_bytes, "-1", "not negative"),
        (units.parse_share, 50, "did you mean 50%?"),
        (units.parse_share, "150%", "at most 1"),
        (units.parse_share, -0.1, "not negative"),
        (units.parse_share, "5ms", "a unit of time where a share belongs"),
        (units.parse_share, True, "not a share"),
        (units.parse_bool, "maybe", "write true or false"),
        (units.parse_bool, None, "not true or false"),
        (units.parse_bool, 2, "not true or false"),
        (units.parse_bool, 1.0, "not true or false"),
    ],
)
def test_what_is_refused_is_explained(parse: Callable[[object], object], value: object, message: str) -> None:
    with pytest.raises(UnitError, match=message.replace("?", r"\?")):
        parse(value)


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (units.parse_duration_ns, "5KB-secret"),
        (units.parse_size_bytes, "hunter2"),
        (units.parse_share, "hunter2"),
    ],
)
def test_problem_and_right_never_quote_the_value(parse: Callable[[object], object], value: str) -> None:
    with pytest.raises(UnitError) as caught:
        parse(value)
    assert "secret" not in caught.value.problem + caught.value.right
    assert "hunter2" not in caught.value.problem + caught.value.right


@given(st.integers(0, 2**61))
def test_a_duration_for_people_reads_back_within_half_a_per_cent(duration_ns: int) -> None:
    text = units.format_duration(duration_ns)
    assert math.isclose(units.parse_duration_ns(text), duration_ns, rel_tol=0.006, abs_tol=1)
    assert units.format_duration(units.parse_duration_ns(text)) == text


@given(st.integers(0, 2**61))
def test_a_size_for_people_reads_back_within_half_a_per_cent(size_bytes: int) -> None:
    text = units.format_size(size_bytes)
    assert math.isclose(units.parse_size_bytes(text), size_bytes, rel_tol=0.006, abs_tol=1)


@given(st.floats(0, 1))
def test_a_share_for_people_reads_back(share: float) -> None:
    assert math.isclose(units.parse_share(units.format_share(share)), share, rel_tol=1e-5, abs_tol=1e-13)


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0ns"), (999, "999ns"), (1_000, "1us"), (999_999, "1ms"), (1_500_000_000, "1.5s"),
        (60_000_000_000, "1m"), (90_000_000_000, "1.5m"), (604_800_000_000_000, "7d"), (-5_000_000, "-5ms"),
    ],
)  # fmt: skip
def test_durations_for_people(duration_ns: int, text: str) -> None:
    assert units.format_duration(duration_ns) == text


def test_sizes_and_shares_for_people() -> None:
    assert units.format_size(256_000_000) == "256MB"
    assert units.format_size(999_999) == "1MB"
    assert units.format_share(0.001) == "0.1%"
    assert units.format_share(1.0) == "100%"
    assert units.format_share(1e-9) == "0.0000001%"


@given(st.one_of(st.text(), st.integers(), st.floats(), st.none(), st.booleans(), st.binary()))
def test_nothing_but_a_number_or_a_unit_error_comes_out(value: object) -> None:
    for parse in (units.parse_duration_ns, units.parse_size_bytes, units.parse_share, units.parse_bool):
        try:
            result = parse(value)
        except UnitError as error:
            assert str(error).isprintable()
        else:
            assert 0 <= result < 2**63


@given(st.integers(0, 10_000), st.sampled_from(list(units.DURATION_UNITS)))
def test_whole_numbers_are_exact(number: int, unit: str) -> None:
    assert units.parse_duration_ns(f"{number}{unit}") == number * units.DURATION_UNITS[unit]
