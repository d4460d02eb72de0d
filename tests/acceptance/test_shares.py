"""Sampled shares against the truth: 70, 20 and 10 %, calls from 50 us to 5 ms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.truth import shares


@pytest.mark.slow
@pytest.mark.parametrize("name", shares.SAMPLED)
def test_shares_are_within_four_points(name: str, tmp_path: Path) -> None:
    row = shares.sampled_row(tmp_path, name)
    assert row.holds, row.line()
