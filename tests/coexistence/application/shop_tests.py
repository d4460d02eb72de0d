"""What pytest runs: assertions rewritten here, one of them fails."""

import pytest
from shop import work


@pytest.fixture
def basket():
    return work.Basket([1, 2])


def test_day():
    assert work.day() == [20, -1, 4, 0, 2, 4, 13, 16, 1]


@pytest.mark.parametrize("amount", [1, 5])
def test_price(amount):
    assert work.price(amount) == 2


def test_total(basket):
    assert basket.total(tax=1) == 7
