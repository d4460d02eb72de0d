"""Reports over the days that are closed: a slow one, deliberately, and a stream."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from shop.db import Database
from shop.pricing import price_line

_CLOSED_LINES = """
    SELECT o.number, o.day, l.sku, p.name, p.category, l.quantity, l.unit_cents
    FROM orders o JOIN order_line l USING (number) JOIN product p USING (sku)
    WHERE o.day < ? ORDER BY o.day, o.number, l.position
"""
_EXPORTED = ("number", "day", "sku", "name", "category", "quantity")


@dataclass(frozen=True, slots=True)
class SalesReport:
    """Turnover in cents; `pairs` are products bought together, with how often, the most frequent first."""

    until: str
    orders: int
    total_cents: int
    by_month: dict[str, int]
    by_category: dict[str, int]
    best: list[tuple[str, int]]
    pairs: list[tuple[str, str, int]]


def sales_report(database: Database, until: str, top: int = 10) -> SalesReport:
    """Add up all orders before the day `until`.

    Slow in the way real reports are: it asks for every line of every order and does in Python, line by line,
    what the database could have done.
    """
    rows = database.rows(_CLOSED_LINES, (until,))
    by_month: dict[str, int] = defaultdict(int)
    by_category: dict[str, int] = defaultdict(int)
    by_product: dict[str, int] = defaultdict(int)
    for row in rows:
        cents = price_line(row["unit_cents"], row["quantity"])
        by_month[row["day"][:7]] += cents
        by_category[row["category"]] += cents
        by_product[row["name"]] += cents
    return SalesReport(
        until=until,
        orders=len({row["number"] for row in rows}),
        total_cents=sum(by_month.values()),
        by_month=dict(sorted(by_month.items())),
        by_category=dict(sorted(by_category.items())),
        best=sorted(by_product.items(), key=lambda item: (-item[1], item[0]))[:top],
        pairs=bought_together(rows, top),
    )


def bought_together(rows: list[sqlite3.Row], top: int) -> list[tuple[str, str, int]]:
    """Count the pairs of products in the same order: (name, name, how often), at most `top`."""
    counted: dict[tuple[str, str], int] = defaultdict(int)
    for names in _orders(rows):
        for pair in combinations(sorted(names), 2):
            counted[pair] += 1
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return [(one, other, times) for (one, other), times in ranked[:top]]


def _orders(rows: list[sqlite3.Row]) -> Iterator[set[str]]:
    """Yield the product names of each order; the rows come order by order."""
    number, names = None, set[str]()
    for row in rows:
        if row["number"] != number:
            if names:
                yield names
            number, names = row["number"], set()
        names.add(row["name"])
    if names:
        yield names


def export_csv(database: Database, until: str) -> Iterator[str]:
    """Yield the lines of all closed orders as CSV, the header first, about 100 lines at a time."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*_EXPORTED, "cents"])
    for count, row in enumerate(database.stream(_CLOSED_LINES, (until,)), 1):
        cents = price_line(row["unit_cents"], row["quantity"])
        writer.writerow([*(row[name] for name in _EXPORTED), cents])
        if count % 100 == 0:
            yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
