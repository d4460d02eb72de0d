"""What the application does: branches, exceptions, generators, methods, coroutines, and half a second of computing."""

import asyncio
import time
from collections.abc import Iterator


def price(amount: int) -> int:
    if amount > 3:
        total = amount * 2
    else:
        total = amount
    doubled = total * 2
    return doubled


def fallible(amount: int) -> int:
    try:
        if amount % 2:
            raise KeyError(amount)
    except KeyError:
        return -1
    return price(amount)


def stream(count: int) -> Iterator[int]:
    for each in range(count):
        yield price(each)


class Basket:
    def __init__(self, items: list[int]) -> None:
        self.items = items

    def total(self, *, tax: int = 0) -> int:
        result = tax
        for each in self.items:
            result += price(each)
        return result


async def fetch(amount: int) -> int:
    await asyncio.sleep(0)
    return price(amount)


def compute() -> int:
    deadline = time.process_time() + 0.1
    rounds = 0
    while time.process_time() < deadline:
        rounds += 1
    return rounds > 0


def unused(amount: int) -> int:
    return price(amount)


def day() -> list[int]:
    answers = [price(5), fallible(1), fallible(2), *stream(3), Basket([1, 2]).total(tax=7)]
    answers.append(asyncio.run(fetch(4)))
    answers.append(compute())
    return answers
