"""What the shop sells: products, categories, search."""

from __future__ import annotations

import functools
import itertools
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from shop.db import Database

Key = TypeVar("Key")
Value = TypeVar("Value")

SEARCH_LIMIT = 20
_WORD = re.compile(r"[a-z]+")


class UnknownProduct(LookupError):
    """There is no product with this number."""


@dataclass(frozen=True, slots=True)
class Product:
    """One thing for sale; `stock` is left out because it changes."""

    sku: str
    name: str
    category: str
    description: str
    unit_cents: int
    weight_g: int

    @classmethod
    def from_row(cls, row: sqlite3.Row) -> Product:
        """Make a product of a row that holds (at least) all of its columns."""
        return cls(*(row[name] for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result: the higher the score, the better it fits."""

    product: Product
    score: int


def remember(size: int) -> Callable[[Callable[[Key], Value]], Callable[[Key], Value]]:
    """Make a decorator that keeps the last `size` results of a function of one argument."""

    def decorate(function: Callable[[Key], Value]) -> Callable[[Key], Value]:
        kept: dict[Key, Value] = {}

        @functools.wraps(function)
        def remembering(key: Key) -> Value:
            if key in kept:
                return kept[key]
            value = function(key)
            kept[key] = value
            if len(kept) > size:
                # another thread may have been faster: then there is nothing left to drop
                kept.pop(next(iter(kept)), None)
            return value

        return remembering

    return decorate


@remember(256)
def words(text: str) -> tuple[str, ...]:
    """Split a text into its words, lower case, in order."""
    return tuple(_WORD.findall(text.lower()))


@remember(1_024)
def weights(product: Product) -> dict[str, int]:
    """Return what each word of a product counts in a search: 5 in the name, 1 each time in the description."""
    counted = Counter(words(product.description))
    for word in set(words(product.name)):
        counted[word] += 5
    return dict(counted)


def score_by_words(product: Product, wanted: tuple[str, ...]) -> int:
    """Return how well a product fits, by looking through its words."""
    name, description = words(product.name), words(product.description)
    return sum(5 * (word in name) + description.count(word) for word in wanted)


def score_by_weights(product: Product, wanted: tuple[str, ...]) -> int:
    """Return the same score, by weights that are worked out once for each product."""
    known = weights(product)
    return sum(known.get(word, 0) for word in wanted)


class Catalog(Mapping[str, Product]):
    """All products by number; read from the database once, when first needed."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # on trial until one has turned out to be faster: they take turns, search by search
        self._scores = itertools.cycle((score_by_words, score_by_weights))

    def __getitem__(self, sku: str) -> Product:
        try:
            return self._products[sku]
        except KeyError:
            raise UnknownProduct(sku) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._products)

    def __len__(self) -> int:
        return len(self._products)

    @cached_property
    def categories(self) -> dict[str, int]:
        """How many products each category holds, by name."""
        counted = Counter(product.category for product in self._products.values())
        return dict(sorted(counted.items()))

    @cached_property
    def _products(self) -> dict[str, Product]:
        rows = self._database.rows("SELECT * FROM product ORDER BY sku")
        return {product.sku: product for product in map(Product.from_row, rows)}

    def in_category(self, category: str) -> list[Product]:
        """Return the products of a category, read afresh, the cheapest first."""
        rows = self._database.rows(
            "SELECT * FROM product WHERE category = ? ORDER BY unit_cents, sku", (category,)
        )
        return [Product.from_row(row) for row in rows]

    def search(self, text: str) -> list[Hit]:
        """Return the products that fit best, at most `SEARCH_LIMIT`."""
        wanted = words(text)
        if not wanted:
            return []
        score_of = next(self._scores)
        hits = [Hit(product, score) for product in self.values() if (score := score_of(product, wanted))]
        hits.sort(key=lambda hit: (-hit.score, hit.product.sku))
        return hits[:SEARCH_LIMIT]

    def similar(self, product: Product) -> Iterator[Product]:
        """Yield products of the same category with a price within a quarter, the cheapest first."""
        for other in self.in_category(product.category):
            near = abs(other.unit_cents - product.unit_cents) * 4 <= product.unit_cents
            if near and other.sku != product.sku:
                yield other
