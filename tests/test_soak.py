"""The verdict of `python -m tests.soak`, which itself takes half an hour."""

from __future__ import annotations

import pytest

from tests.soak import GROWTH_BYTES, SLACK_BYTES, STORE_BYTES, judge

FLAT = [30_000_000] * 30


@pytest.mark.parametrize(
    ("rss", "stored", "wrong"),
    [
        (FLAT, [STORE_BYTES] * 30, ""),
        ([10_000_000] * 6 + FLAT[6:], [0], ""),  # warm-up
        (FLAT[:-9] + [30_000_000 + 2 * GROWTH_BYTES] * 9, [0], "memory grew"),
        (FLAT, [0, STORE_BYTES + 2 * SLACK_BYTES, 0], "its bound"),
        (FLAT[:6], [0], "too few"),
    ],
)
def test_verdict(rss: list[int], stored: list[int], wrong: str) -> None:
    found = judge(rss, stored)
    assert (wrong in found[0]) if wrong else not found
