"""Callables in classes: methods, properties, what the standard library makes of them."""

from __future__ import annotations

from tests.callables.row import Row

ROWS = [
    Row(
        "methods",
        """
class Base:
    #@
    def greet(self, name):
        return f"hello {name}"
    #@
    def __private(self):
        return "private"
    #@
    def call_private(self):
        return self.__private()
class Child(Base):
    #@
    def greet(self, name):
        return super().greet(name) + " from " + __class__.__name__
    #@
    def __call__(self, x):
        return x
    #@
    def __getitem__(self, key):
        return key
    #@
    def __eq__(self, other):
        return isinstance(other, Child)
    __hash__ = None
    #@
    def __len__(self):
        return 7
def run():
    child = Child()
    bound = child.greet
    return [bound("a"), Child.greet(child, "b"), Base().greet("c"), child(1), child[2:3], child == Child(),
            len(child), child.call_private(), bound.__self__ is child,
            bound.__func__ is Child.__dict__["greet"]]
""",
        {
            "Base.greet": 3,
            "Base.__private": 1,
            "Base.call_private": 1,
            "Child.greet": 2,
            "Child.__call__": 1,
            "Child.__getitem__": 1,
            "Child.__eq__": 1,
            "Child.__len__": 1,
        },
    ),
    Row(
        "class and static methods",
        """
class Tool:
    @classmethod
    #@
    def make(cls, n):
        return cls.__name__, n
    @staticmethod
    #@
    def helper(n):
        return n + 1
    #@
    def __new__(cls):
        return super().__new__(cls)
    #@
    def __init_subclass__(cls, **options):
        cls.options = options
    #@
    def __class_getitem__(cls, item):
        return item
class Special(Tool, mode="x"):
    pass
def run():
    return [Tool.make(1), Special.make(2), Tool().make(3), Tool.helper(4), Tool().helper(5), Special.options,
            Tool["i"]]
""",
        {
            "Tool.make": 3,
            "Tool.helper": 2,
            "Tool.__new__": 2,
            "Tool.__init_subclass__": 1,
            "Tool.__class_getitem__": 1,
        },
    ),
    Row(
        "property with getter, setter and deleter",
        """
class Account:
    def __init__(self):
        self._balance = 0
    @property
    #@
    def balance(self):
        "What is left."
        return self._balance
    @balance.setter
    #@
    def balance(self, value):
        self._balance = value
    @balance.deleter
    #@
    def balance(self):
        self._balance = None
def run():
    account = Account()
    account.balance = 5
    account.balance += 1
    out = [account.balance, Account.balance.__doc__]
    del account.balance
    return [*out, account.balance]
""",
        {"Account.balance": 6},
    ),
    Row(
        "cached_property",
        """
from functools import cached_property
class Page:
    made = 0
    @cached_property
    #@
    def body(self):
        self.made += 1
        return f"body {self.made}"
def run():
    page = Page()
    return [page.body, page.body, page.made, page.__dict__["body"]]
""",
        {"Page.body": 1},
    ),
    Row(
        "partial and partialmethod",
        """
from functools import partial, partialmethod
#@
def power(base, exponent):
    return base ** exponent
class Cell:
    #@
    def set(self, value, *, loud=False):
        return value, loud
    on = partialmethod(set, True)
    off = partialmethod(set, False, loud=True)
square = partial(power, exponent=2)
def run():
    cell = Cell()
    return [square(3), partial(power, 2)(5), partial(cell.set, 7)(), cell.on(), cell.off()]
""",
        {"power": 2, "Cell.set": 3},
    ),
    Row(
        "lru_cache, wraps and singledispatch",
        """
from functools import lru_cache, singledispatch, wraps
@lru_cache(maxsize=None)
#@
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
def twice(function):
    @wraps(function)
    #@
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs), function(*args, **kwargs)
    return wrapper
@twice
#@
def add(a, b):
    return a + b
@singledispatch
#@
def show(value):
    return "object"
@show.register
#@
def _(value: int) -> str:
    return "int"
def run():
    fib.cache_clear()
    return [fib(10), fib.cache_info().misses, add(1, 2), add.__name__, show(1), show("x")]
""",
        {"fib": 11, "add": 2, "twice.<locals>.wrapper": 1, "show": 1, "_": 1},
        {"fib": 10},
    ),
    Row(
        "dataclass",
        """
from dataclasses import dataclass, field
@dataclass(order=True)
class Item:
    price: int
    count: int = 1
    tags: list = field(default_factory=list, compare=False)
    #@
    def total(self):
        return self.price * self.count
    #@
    def __post_init__(self):
        self.tags.append("made")
def run():
    items = [Item(3), Item(1, 2)]
    return [sorted(items), [each.total() for each in items], repr(items[0])]
""",
        {"Item.total": 2, "Item.__post_init__": 2},
    ),
    Row(
        "enum",
        """
from enum import Enum
class Colour(Enum):
    RED = 1
    BLUE = 2
    #@
    def mix(self, other):
        return self.value + other.value
    @classmethod
    #@
    def _missing_(cls, value):
        return cls.RED
    @property
    #@
    def label(self):
        return self.name.lower()
def run():
    return [Colour.RED.mix(Colour.BLUE), Colour(9).name, Colour.BLUE.label, len(Colour),
            list(Colour.__members__)]
""",
        {"Colour.mix": 1, "Colour._missing_": 1, "Colour.label": 1},
    ),
    Row(
        "slots, metaclass and descriptors",
        """
class Meta(type):
    #@
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.via = "meta"
        return made
class Field:
    #@
    def __set_name__(self, owner, name):
        self.name = name
    #@
    def __get__(self, instance, owner=None):
        return self if instance is None else (self.name, instance.x)
class Point(metaclass=Meta):
    __slots__ = ("x", "via", "__weakref__")
    field = Field()
    #@
    def __init__(self, x):
        self.x = x
    #@
    def moved(self, by):
        return type(self)(self.x + by)
def run():
    point = Point(1)
    return [point.x, point.via, point.moved(2).x, point.field, Point.field.name]
""",
        {
            "Meta.__call__": 2,
            "Field.__set_name__": 1,
            "Field.__get__": 2,
            "Point.__init__": 2,
            "Point.moved": 1,
        },
    ),
]
