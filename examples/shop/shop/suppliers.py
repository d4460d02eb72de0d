"""Asking all suppliers at once what a product would cost: the asynchronous corner of the shop."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from shop.catalog import Product
from shop.pricing import permille

SUPPLIERS = ("Abel & Sons", "Brightwater", "Cordwainers Ltd", "Dunmore", "Eastgate")
ANSWER_S = 0.001


@dataclass(frozen=True, slots=True, order=True)
class Offer:
    """A supplier's price for one piece; offers sort by price."""

    unit_cents: int
    supplier: str


async def ask(supplier: str, product: Product) -> Offer:
    """Return one supplier's offer. Stands for a request over the network: it waits, then works it out."""
    await asyncio.sleep(ANSWER_S)
    share = 520 + zlib.crc32(f"{supplier}/{product.sku}".encode()) % 200
    return Offer(permille(product.unit_cents, share), supplier)


async def offers(product: Product) -> AsyncIterator[Offer]:
    """Yield the offers for a product as they come in."""
    for answer in asyncio.as_completed([ask(supplier, product) for supplier in SUPPLIERS]):
        yield await answer


async def sorted_offers(product: Product) -> list[Offer]:
    """Return all offers, the cheapest first."""
    return sorted([offer async for offer in offers(product)])
