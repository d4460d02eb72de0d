"""The kinds of callables that every way of rewriting must leave as they are: one row each.

A row is a module's source with a function `run()` that uses the callables and returns something comparable.
`#@` stands where the way "decorator in the code" puts its decorator: innermost, on its own line.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """One kind of callable.

    Attributes:
        calls: qualified name → calls that one `run()` makes.
        nested: how many of them happen inside a measured call of the same target.
    """

    name: str
    source: str
    calls: dict[str, int]
    nested: dict[str, int] = field(default_factory=dict)


ROWS = [
    Row(
        "function",
        """
#@
def total(a, b=2, /, c=3, *rest, d=4, **more):
    return a, b, c, rest, d, more
def run():
    return [total(1), total(1, 5, 6, 7, 8, d=9, e=10), total(1, c=2)]
""",
        {"total": 3},
    ),
    Row(
        "shapes of signatures",
        """
#@
def none():
    return 0
#@
def only_keywords(*, a, b=2):
    return a, b
#@
def stars(*args):
    return args
#@
def double_stars(**named):
    return sorted(named.items())
#@
def defaults(a=1, b=[]):
    b.append(a)
    return list(b)
#@
def positional_only(a, b, /):
    return a, b
#@
def after_stars(*args, key=1):
    return args, key
#@
def both(*args, **named):
    return args, named
def run():
    return [
        none(), only_keywords(a=1), only_keywords(b=3, a=1), stars(), stars(1, 2), double_stars(x=1, y=2),
        defaults(), defaults(2), positional_only(1, 2), after_stars(1, 2, key=3), after_stars(),
        both(1, z=2), both(),
    ]
""",
        {
            "none": 1,
            "only_keywords": 2,
            "stars": 2,
            "double_stars": 1,
            "defaults": 2,
            "positional_only": 1,
            "after_stars": 2,
            "both": 2,
        },
    ),
    Row(
        "nested function",
        """
#@
def outer(n):
    #@
    def inner(x):
        return x * 2
    return [inner(i) for i in range(n)]
def run():
    return [outer(3), outer(2)]
""",
        {"outer": 2, "outer.<locals>.inner": 5},
    ),
    Row(
        "closure",
        """
def counter(start):
    step = 1
    #@
    def advance(by=0):
        nonlocal start
        start += step + by
        return start
    #@
    def reset(to, cell_argument=None):
        nonlocal start
        start = to
        return lambda: (to, cell_argument)
    return advance, reset
def run():
    first, reset = counter(10)
    second, _ = counter(100)
    return [first(), first(2), second(), reset(5, 6)(), first(), first.__closure__ is not None]
""",
        {"counter.<locals>.advance": 4, "counter.<locals>.reset": 1},
    ),
    Row(
        "declared global",
        """
def make():
    global exported, Exported
    #@
    def exported():
        return exported.__qualname__
    class Exported:
        #@
        def method(self):
            return type(self).__qualname__
    if True:
        #@
        def local():
            return local.__qualname__
    return local
def run():
    return [make()(), exported(), Exported().method()]
""",
        {"exported": 1, "Exported.method": 1, "make.<locals>.local": 1},
    ),
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
    Row(
        "generator",
        """
#@
def count(n):
    received = []
    try:
        for i in range(n):
            received.append((yield i))
    except KeyError:
        yield "caught"
    finally:
        log.append(("closed", n))
    return received
#@
def outer(n):
    result = yield from count(n)
    yield result
log = []
def run():
    log.clear()
    out = [list(count(3)), list(outer(2))]
    talk = count(5)
    out += [next(talk), talk.send("hello"), talk.throw(KeyError("x"))]
    talk.close()
    started = count(4)
    next(started)
    started.close()
    out.append(sum(1 for _ in zip(count(9), range(2))))
    return out, log
""",
        {"count": 5, "outer": 1},
    ),
    Row(
        "coroutine",
        """
import types
@types.coroutine
def pause(value):
    return (yield value)
#@
async def fetch(n):
    got = await pause(n)
    return n, got
#@
async def gather(*numbers):
    return [await fetch(n) for n in numbers]
#@
async def failing():
    await pause(0)
    raise ValueError("no")
#@
async def guarded():
    try:
        await failing()
    except ValueError as error:
        return str(error)
def drive(coroutine):
    seen = []
    try:
        value = None
        while True:
            value = coroutine.send(value)
            seen.append(value)
            value = f"sent {value}"
    except StopIteration as stop:
        return stop.value, seen
def run():
    unused = fetch(5)
    unused.send(None)
    unused.close()
    return [drive(fetch(1)), drive(gather(2, 3)), drive(guarded())]
""",
        {"fetch": 4, "gather": 1, "failing": 1, "guarded": 1},
    ),
    Row(
        "async generator",
        """
import types
@types.coroutine
def pause(value):
    return (yield value)
#@
async def ticks(n):
    got = []
    try:
        for i in range(n):
            await pause(("wait", i))
            try:
                got.append((yield i))
            except KeyError as error:
                got.append((yield ("caught", error.args)))
    finally:
        await pause("cleanup")
        log.append(got)
#@
async def collect(n):
    return [i async for i in ticks(n)]
#@
async def talk():
    stream = ticks(5)
    out = [await stream.asend(None), await stream.asend("a"), await stream.athrow(KeyError("k"))]
    out.append(await stream.__anext__())
    await stream.aclose()
    try:
        await stream.__anext__()
    except StopAsyncIteration:
        out.append("over")
    return out
log = []
def drive(coroutine):
    seen = []
    try:
        while True:
            seen.append(coroutine.send(None))
    except StopIteration as stop:
        return stop.value, seen
def run():
    log.clear()
    return [drive(collect(3)), drive(talk()), log]
""",
        {"ticks": 2, "collect": 1, "talk": 1},
    ),
    Row(
        "context managers",
        """
from contextlib import asynccontextmanager, contextmanager
@contextmanager
#@
def opened(name):
    log.append(("open", name))
    try:
        yield name
    except KeyError:
        log.append("swallowed")
    finally:
        log.append(("close", name))
class Lock:
    #@
    def __enter__(self):
        return "in"
    #@
    def __exit__(self, kind, error, traceback):
        return kind is ValueError
@asynccontextmanager
#@
async def session():
    log.append("begin")
    yield "session"
    log.append("end")
#@
async def use():
    async with session() as s:
        return s
log = []
def run():
    log.clear()
    with opened("a") as a:
        pass
    with opened("b"):
        raise KeyError
    try:
        with opened("c"):
            raise IndexError
    except IndexError:
        log.append("passed")
    with Lock() as lock:
        raise ValueError
    try:
        use().send(None)
    except StopIteration as stop:
        log.append(stop.value)
    return [a, lock, log]
""",
        {"opened": 3, "Lock.__enter__": 1, "Lock.__exit__": 1, "session": 1, "use": 1},
    ),
    Row(
        "recursion",
        """
#@
def factorial(n):
    return 1 if n == 0 else n * factorial(n - 1)
#@
def even(n):
    return True if n == 0 else odd(n - 1)
#@
def odd(n):
    return False if n == 0 else even(n - 1)
def run():
    return [factorial(5), factorial(3), even(7), odd(7)]
""",
        {"factorial": 10, "even": 8, "odd": 8},
        {"factorial": 8, "even": 6, "odd": 6},
    ),
    Row(
        "decorated before and after",
        """
registry = []
def register(function):
    registry.append(function)
    return function
def tag(name):
    def decorator(function):
        def wrapper(*args):
            return name, function(*args)
        wrapper.inner = function
        return wrapper
    return decorator
@tag("outer")
@register
@tag("middle")
#@
def work(x):
    return x + 1
@register
#@
def direct(x):
    return -x
def run():
    return [work(1), direct(2), [each(3) for each in registry], registry[1] is direct]
""",
        {"work": 2, "direct": 2},
    ),
    Row(
        "redefinition",
        """
#@
def pick():
    return "first"
first = pick
if True:
    #@
    def pick():
        return "second"
def run():
    return [first(), pick(), pick()]
""",
        {"pick": 3},
    ),
    Row(
        "lambda and comprehension around",
        """
#@
def outer(values):
    key = lambda v: -v
    return sorted((v for v in values if v), key=key), {k: [k + i for i in range(k)] for k in values}
def run():
    return outer([1, 0, 2])
""",
        {"outer": 1},
    ),
    Row(
        "many arguments and free variables",
        "\n".join(
            [
                "def make():",
                *(f"    v{i} = {i}" for i in range(60)),
                "    #@",
                "    def inner(" + ", ".join(f"a{i}" for i in range(80)) + "):",
                "        return v0 + a0 + " + " + ".join(f"v{i % 60} + a{i}" for i in range(1, 80)),
                "    return inner",
                "#@",
                "def constants():",
                "    return [" + ", ".join(f"'{i}'" for i in range(400)) + ", (1.5, 2.5), a(), b]",
                "a = str",
                "b = 3",
                "def run():",
                "    return [make()(*range(80)), constants(), make()(**{f'a{i}': i for i in range(80)})]",
            ]
        ),
        {"make.<locals>.inner": 2, "constants": 1},
    ),
    Row(
        "exceptions",
        """
#@
def fail(kind):
    raise kind("reason")
#@
def caught():
    try:
        fail(KeyError)
    except KeyError as error:
        return type(error).__name__, error.args, error.__traceback__ is not None
#@
def chained():
    try:
        fail(OSError)
    except OSError as error:
        raise RuntimeError("chained") from error
#@
def finally_():
    try:
        return "returned"
    finally:
        log.append("finally")
log = []
def run():
    import sys, traceback
    log.clear()
    out = [caught(), finally_(), sys.exc_info()]
    try:
        chained()
    except RuntimeError as error:
        out += [str(error), type(error.__cause__).__name__]
        for each in (error, error.__cause__):
            out.append([(frame.name, frame.lineno) for frame in traceback.extract_tb(each.__traceback__)])
    out.append(sys.exc_info())
    for call in (lambda: fail(), lambda: fail(1, 2), lambda: fail(nope=1)):
        try:
            call()
        except TypeError as error:
            out.append(str(error))
    return out, log
""",
        {"fail": 2, "caught": 1, "chained": 1, "finally_": 1},
    ),
    Row(
        "introspection",
        '''
import inspect
#@
def documented(a: int, b: "str" = "x", *, c: float = 1.5) -> list:
    """What it does."""
    return [a, b, c]
documented.attribute = 5
#@
async def coroutine(): ...
#@
def generator():
    yield
#@
async def async_generator():
    yield
class Widget:
    #@
    def method(self, x):
        """A method."""
        return x
def run():
    import typing
    out = []
    for each in (documented, coroutine, generator, async_generator, Widget.method):
        out.append((each.__name__, each.__qualname__, each.__doc__, each.__module__,
                    str(inspect.signature(each)), inspect.iscoroutinefunction(each),
                    inspect.isgeneratorfunction(each), inspect.isasyncgenfunction(each),
                    inspect.isfunction(each), each.__defaults__, each.__kwdefaults__,
                    each.__annotations__, repr(each).split(" at ")[0]))
    return out, documented.attribute, documented(1), typing.get_type_hints(documented)
''',
        {"documented": 1},
    ),
]
