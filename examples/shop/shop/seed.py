"""The shop's made-up past: products and closed orders, the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import date, timedelta

from shop.db import Database, DatabaseError
from shop.pricing import Basket, Line

PRODUCTS = 180
ORDERS = 2_500
CLOSED_DAYS = 365
OPENING_DAY = "2026-01-02"
"""The shop's only today: pages must not depend on the clock."""

_CATEGORIES = ("bags", "books", "garden", "kitchen", "lamps", "paper", "shoes", "tools", "toys")
_MATERIALS = (
    "birch",
    "brass",
    "canvas",
    "cork",
    "cotton",
    "felt",
    "glass",
    "leather",
    "linen",
    "slate",
    "wool",
)
_KINDS = ("basket", "bench", "box", "case", "frame", "holder", "mat", "set", "stand", "tray")
_PRAISE = ("light", "sturdy", "washable", "hand made", "folding", "repairable", "quiet", "small", "generous")


def product_rows(chance: random.Random) -> list[tuple[str, str, str, str, int, int, int]]:
    """Return rows for the table `product`."""
    rows = []
    for index in range(PRODUCTS):
        material, kind = chance.choice(_MATERIALS), chance.choice(_KINDS)
        praise = ", ".join(chance.sample(_PRAISE, 3))
        description = f"A {praise} {kind} of {material}, for every day & <every> season."
        price, weight = chance.randrange(190, 9_990, 10), chance.randrange(40, 4_000, 20)
        category = chance.choice(_CATEGORIES)
        rows.append((f"P{index:04}", f"{material} {kind} {index}", category, description, price, weight, 400))
    return rows


def past_orders(chance: random.Random, lines: list[Line]) -> Iterator[tuple[str, str, str, Basket]]:
    """Yield (number, day, customer, basket) of the closed days, oldest first."""
    first = date.fromisoformat(OPENING_DAY) - timedelta(days=CLOSED_DAYS)
    days = sorted(chance.randrange(CLOSED_DAYS) for _ in range(ORDERS))
    for index, day in enumerate(days):
        picked = [
            Line(line.sku, line.name, line.unit_cents, chance.choice((1, 1, 1, 2, 3, 6, 12)), line.weight_g)
            for line in chance.sample(lines, chance.randint(1, 6))
        ]
        customer = f"customer {chance.randrange(400)}"
        yield f"S-{index:05}", (first + timedelta(days=day)).isoformat(), customer, Basket(picked)


def prepare(database: Database, seed: int) -> None:
    """Fill a new database, or see that the given one was made from the same seed.

    Raises:
        DatabaseError: made from another seed, or no database of this shop.
    """
    if not database.is_new:
        made_from = database.settings().get("seed")
        if made_from != str(seed):
            raise DatabaseError(f"{database.path}: made from seed {made_from}, not {seed}")
        return
    chance = random.Random(seed)
    products = product_rows(chance)
    choice = [Line(row[0], row[1], row[4], 1, row[5]) for row in products]
    orders, lines = [], []
    for number, day, customer, basket in past_orders(chance, choice):
        orders.append((number, day, customer, basket.total()))
        for position, line in enumerate(basket):
            lines.append((number, position, line.sku, line.quantity, line.unit_cents))
    database.create({"seed": str(seed)}, {"product": products, "orders": orders, "order_line": lines})
