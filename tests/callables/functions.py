"""Callables at the top and in one another: functions, signatures, closures."""

from __future__ import annotations

from tests.callables.row import Row

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
]
