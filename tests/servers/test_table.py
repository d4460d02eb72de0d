"""Every row of the table stands on tests, and every test on servers is in a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.servers.table import ROWS


def test_rows_and_tests_belong_together(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    functions = {
        f"{path.stem}::{name}"
        for path in here.glob("test_*.py")
        if path != Path(__file__)
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    collected = {
        f"{each.path.stem}::{each.name}"
        for each in request.session.items
        if each.path.parent == here and each.path != Path(__file__)
    }
    for name in collected:
        assert any(re.fullmatch(row.tests, name) for row in ROWS), f"in no row: {name}"
    if {name.partition("[")[0] for name in collected} == functions:
        for row in ROWS:
            assert any(re.fullmatch(row.tests, name) for name in collected), f"no test: {row}"
