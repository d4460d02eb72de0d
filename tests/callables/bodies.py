"""Callables by what is in and around them: recursion, decorators, exceptions, introspection."""

from __future__ import annotations

from tests.callables.row import Row

ROWS = [
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
