"""Orders: placing them, finding them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shop.catalog import Catalog
from shop.db import Database
from shop.pricing import Basket, Line

MAX_LINES = 50
MAX_QUANTITY = 999


class OrderError(ValueError):
    """An order that can't be placed; the message is meant for the customer."""


class UnknownOrder(LookupError):
    """There is no order with this number."""


@dataclass(frozen=True, slots=True)
class Order:
    """An order as it was placed; `total_cents` is what was paid."""

    number: str
    day: str
    customer: str
    total_cents: int
    basket: Basket


class OrderBook:
    """All orders, of today and before.

    Args:
        day: the date that new orders get, as YYYY-MM-DD.
    """

    def __init__(self, database: Database, catalog: Catalog, day: str) -> None:
        self._database = database
        self._catalog = catalog
        self.day = day

    def basket(self, items: Iterable[tuple[str, int]]) -> Basket:
        """Fill a basket with (product number, quantity).

        Raises:
            OrderError: nothing, too much, or a quantity out of range.
            UnknownProduct: no such product.
        """
        basket = Basket.of(self._lines(items))
        if not 1 <= len(basket) <= MAX_LINES:
            raise OrderError(f"between 1 and {MAX_LINES} different products, not {len(basket)}")
        return basket

    def place(self, number: str, customer: str, basket: Basket) -> Order:
        """Store an order; the same number again gives the order that is already there."""
        order = Order(number, self.day, customer, basket.total(), basket)
        with self._database.transaction() as connection:
            if connection.execute("SELECT 1 FROM orders WHERE number = ?", (number,)).fetchone() is None:
                connection.execute(
                    "INSERT INTO orders VALUES (?, ?, ?, ?)", (number, order.day, customer, order.total_cents)
                )
                connection.executemany(
                    "INSERT INTO order_line VALUES (?, ?, ?, ?, ?)",
                    [
                        (number, position, line.sku, line.quantity, line.unit_cents)
                        for position, line in enumerate(basket)
                    ],
                )
                connection.executemany(
                    "UPDATE product SET stock = stock - ? WHERE sku = ?",
                    [(line.quantity, line.sku) for line in basket],
                )
                return order
        return self.find(number)

    def find(self, number: str) -> Order:
        """Return one order.

        Raises:
            UnknownOrder: there is none with this number.
        """
        head = self._database.rows("SELECT * FROM orders WHERE number = ?", (number,))
        if not head:
            raise UnknownOrder(number)
        lines = self._database.rows(
            "SELECT sku, quantity, unit_cents FROM order_line WHERE number = ? ORDER BY position", (number,)
        )
        basket = Basket([self._line(row["sku"], row["quantity"], row["unit_cents"]) for row in lines])
        return Order(number, head[0]["day"], head[0]["customer"], head[0]["total_cents"], basket)

    def count(self) -> int:
        """Return how many orders there are."""
        return int(self._database.scalar("SELECT count(*) FROM orders"))

    def _lines(self, items: Iterable[tuple[str, int]]) -> Iterator[Line]:
        for sku, quantity in items:
            if not 1 <= quantity <= MAX_QUANTITY:
                raise OrderError(f"{sku}: between 1 and {MAX_QUANTITY} pieces, not {quantity}")
            yield self._line(sku, quantity)

    def _line(self, sku: str, quantity: int, unit_cents: int | None = None) -> Line:
        product = self._catalog[sku]
        price = product.unit_cents if unit_cents is None else unit_cents
        return Line(sku, product.name, price, quantity, product.weight_g)
