"""One row of the table is one test: real programs under real tools, without autoprof and with it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .rows import ROWS, Row, check
from .tools import prepare

MINOR = sys.version_info[1]


@pytest.fixture(scope="module")
def venv() -> Path:
    return prepare()


@pytest.mark.parametrize("row", ROWS, ids=[each.name.replace(", ", "-") for each in ROWS])
def test_both_are_right(row: Row, venv: Path) -> None:
    if MINOR not in row.versions:
        pytest.skip(row.unavailable)
    check(row, venv, MINOR)
