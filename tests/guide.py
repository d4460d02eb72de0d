"""Reads `examples/guide.md`, the table of what the guide promises: its rows are test cases."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "examples" / "guide.md"
TEST = re.compile(r"`(test_\w+\.py)::(\w+)`")


class Row(NamedTuple):
    """One row of one table; `cells` by the heading of their column."""

    section: str
    line: int
    cells: dict[str, str]

    @property
    def yaml(self) -> str:
        """The rule in one line, "" where there is none."""
        return _code(self.cells.get("YAML", ""))

    @property
    def decorator(self) -> str:
        """The decorator without its @, "" where there is none."""
        return _code(self.cells.get("decorator", "")).removeprefix("@")

    @property
    def words(self) -> list[str]:
        """The words of the first cell."""
        return next(iter(self.cells.values())).split()


def _code(cell: str) -> str:
    found = re.fullmatch(r"`(.*)`", cell)
    return found[1] if found else ""


@functools.cache
def rows() -> tuple[Row, ...]:
    """Return every row of every table."""
    return tuple(_rows(PAGE.read_text("utf-8").splitlines()))


def _rows(lines: list[str]) -> Iterator[Row]:
    section = ""
    heading: list[str] = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#"):
            section = line.lstrip("# ").strip("`")
        if not line.startswith("|"):
            heading = []
        elif not heading:
            heading = _cells(line)
        elif set(line) - set("|- "):
            cells = _cells(line)
            assert len(cells) == len(heading), f"line {number} of {PAGE.name} has {len(cells)} cells"
            yield Row(section, number, dict(zip(heading, cells, strict=True)))


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def pairs() -> list[Row]:
    """Return the rows with both forms."""
    return [row for row in rows() if row.yaml and row.decorator]


@functools.cache
def tests_of(file: str) -> frozenset[str]:
    """Return the names of the test functions of a file."""
    tree = ast.parse((REPOSITORY / "tests" / file).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds) and node.name[:5] == "test_")
