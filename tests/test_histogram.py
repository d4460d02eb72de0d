"""Buckets: order kept, width bounded, quantiles near the truth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprof.histogram import bucket, lower_ns, midpoint_ns, quantile_ns

durations = st.one_of(st.integers(0, 5_000), st.integers(0, 1 << 62))


@given(durations)
def test_a_duration_lies_in_its_bucket(duration_ns: int) -> None:
    index = bucket(duration_ns)
    assert lower_ns(index) <= duration_ns < lower_ns(index + 1)


@given(durations, durations)
def test_order_is_kept(first_ns: int, second_ns: int) -> None:
    low, high = sorted((first_ns, second_ns))
    assert bucket(low) <= bucket(high)


@given(st.integers(16, 1 << 62))
def test_a_bucket_is_at_most_a_sixteenth_wide(duration_ns: int) -> None:
    index = bucket(duration_ns)
    assert (lower_ns(index + 1) - lower_ns(index)) * 16 <= lower_ns(index)
    assert abs(midpoint_ns(index) - duration_ns) <= duration_ns / 16


@given(st.integers(0, 976))
def test_every_bucket_begins_with_itself(index: int) -> None:
    assert bucket(lower_ns(index)) == index
    assert bucket(midpoint_ns(index)) == index


@pytest.mark.parametrize("duration_ns", [-1, -(10**30), 0])
def test_no_duration_is_below_zero(duration_ns: int) -> None:
    assert bucket(duration_ns) == 0


def test_small_durations_are_exact() -> None:
    assert [midpoint_ns(bucket(duration_ns)) for duration_ns in range(16)] == list(range(16))


@given(st.lists(durations, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_quantiles_are_near_the_sorted_ones(values: list[int], share: float) -> None:
    counts: dict[int, int] = {}
    for value in values:
        counts[bucket(value)] = counts.get(bucket(value), 0) + 1
    rank = max(1, -(-round(share * len(values) * 1_000_000) // 1_000_000))
    true = sorted(values)[rank - 1]
    found = quantile_ns(counts, share)
    assert found is not None
    assert abs(found - true) <= true / 16


@pytest.mark.parametrize("count", [10, 2**53 + 1, 10**15 + 1, 10**17 + 7, 2**62 - 1])
def test_the_last_quantile_of_very_many_is_not_lost(count: int) -> None:
    assert quantile_ns({5: count}, 1.0) == 5
    assert quantile_ns({5: count}, 0.99) == 5


def test_nothing_has_no_quantile() -> None:
    assert quantile_ns({}, 0.5) is None
    assert quantile_ns({3: 0}, 0.5) is None
