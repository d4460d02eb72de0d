"""What things cost: whole cents in, whole cents out, no I/O. The hottest code of the shop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

PriceRule = Callable[[int, int], int]
"""(quantity, cents so far) -> cents."""

VAT_PERMILLE = 190
SHIPPING_FREE_FROM_CENTS = 5_000
SHIPPING_BASE_CENTS = 390
SHIPPING_CENTS_PER_KG = 75


def permille(cents: int, share: int) -> int:
    """Return `share` thousandths of `cents`, half a cent rounded up."""
    return (cents * share + 500) // 1000


def volume_rebate(minimum: int, share: int) -> PriceRule:
    """Make a rule that takes `share` thousandths off from `minimum` pieces on."""

    def apply(quantity: int, cents: int) -> int:
        return cents - permille(cents, share) if quantity >= minimum else cents

    return apply


def every_nth_free(nth: int) -> PriceRule:
    """Make a rule that gives every `nth` piece away."""

    def apply(quantity: int, cents: int) -> int:
        return cents - cents // quantity * (quantity // nth) if quantity else cents

    return apply


STANDARD_RULES: tuple[PriceRule, ...] = (every_nth_free(12), volume_rebate(3, 30), volume_rebate(6, 45))


def price_line(
    unit_cents: int, quantity: int, rules: Iterable[PriceRule] = STANDARD_RULES, vat: int = VAT_PERMILLE
) -> int:
    """Return what `quantity` pieces cost, rebates taken off and VAT (thousandths) put on."""
    cents = unit_cents * quantity
    for rule in rules:
        cents = rule(quantity, cents)
    return cents + permille(cents, vat)


@dataclass(frozen=True, slots=True)
class Line:
    """Some pieces of one product."""

    sku: str
    name: str
    unit_cents: int
    quantity: int
    weight_g: int = 0

    @property
    def cents(self) -> int:
        """The price of the line with VAT."""
        return price_line(self.unit_cents, self.quantity)


@dataclass
class Basket:
    """What a customer is about to buy; not to be changed once its weight or shipping was asked for."""

    lines: list[Line] = field(default_factory=list)

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Basket:
        """Put lines of the same product together, in the order they first came."""
        merged: dict[str, Line] = {}
        for line in lines:
            before = merged[line.sku].quantity if line.sku in merged else 0
            quantity = line.quantity + before
            merged[line.sku] = Line(line.sku, line.name, line.unit_cents, quantity, line.weight_g)
        return cls(list(merged.values()))

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def subtotal(self) -> int:
        """All lines, in cents, with VAT and without shipping."""
        return sum(line.cents for line in self.lines)

    @cached_property
    def weight_g(self) -> int:
        """The weight of everything in grams."""
        return sum(line.weight_g * line.quantity for line in self.lines)

    @cached_property
    def shipping(self) -> int:
        """Shipping in cents: free from a certain amount on, else by started kilograms."""
        if not self.lines or self.subtotal >= SHIPPING_FREE_FROM_CENTS:
            return 0
        return SHIPPING_BASE_CENTS + SHIPPING_CENTS_PER_KG * -(-self.weight_g // 1000)

    def total(self) -> int:
        """Return what the customer pays, in cents."""
        return self.subtotal + self.shipping


def money(cents: int) -> str:
    """Write cents as people do: `1234567` is `12,345.67 €`."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d} €"
