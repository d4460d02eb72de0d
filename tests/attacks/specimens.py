"""What Python can do with functions, to be looked at with and without gates."""

from __future__ import annotations

import collections
import enum
import functools
import logging
import sys
import typing
import warnings
import weakref

from class_specimens import Abstract, Attributes, Colour, Concrete, Context, Record, Sub, WithMeta

__all__ = ["Abstract", "Attributes", "Colour", "Concrete", "Context", "Record", "Sub", "WithMeta"]


def tagged(tag):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return tag, function(*args, **kwargs)

        return wrapper

    return decorate


def everything(a: int, b: str = "x", /, c=3, *rest: float, d, e=5, **more) -> typing.List[int]:  # noqa: UP006
    """Take it all.

    >>> everything(1, d=4)
    (1, 'x', 3, (), 4, 5, {})
    """
    return a, b, c, rest, d, e, more


@functools.singledispatch
def generic(value):
    return "object"


@generic.register
def _(value: int):
    return "int"


@generic.register(list)
def of_list(value):
    return "list"


@tagged("t")
def decorated(x):
    return x


def seen_locals(a, b=2):
    c = 3
    eval("1 + 1")
    exec("d = 1")
    return sorted(locals().items(), key=str)


def deletes_argument(a, b):
    del a
    try:
        return a
    except UnboundLocalError as error:
        return b, str(error)


def lets_go(thing):
    reference = weakref.ref(thing)
    del thing
    return reference() is None


def argument_in_a_cell(a, *rest, k=None, **more):
    def inner():
        nonlocal a
        a += 1
        return a, rest, k, more

    return inner


def counter():
    n = 0

    def increase(by=1):
        nonlocal n
        n += by
        return n

    return increase


def rebinds_rest(*rest):
    rest = (*rest, 1)
    return rest


def only_keywords(*, z, y=2):
    return z, y


def only_positional(a, b=1, /):
    return a, b


def changes_keywords(**more):
    more["new"] = 1
    return more


def frame_names():
    found = []
    frame = sys._getframe()
    while frame is not None and frame.f_code.co_name not in ("outcome", "<module>"):
        found.append((frame.f_code.co_name, frame.f_lineno))
        frame = frame.f_back
    return found


def frame_names_below():
    return frame_names()


def name_of_caller():
    return sys._getframe(1).f_code.co_name, sys._getframe(0).f_lineno


def warned():
    warnings.warn("from here", stacklevel=2)


def logged():
    records = []

    class Handler(logging.Handler):
        def emit(self, record):
            records.append((record.funcName, record.lineno))

    logger = logging.getLogger("specimen")
    logger.handlers = [Handler()]
    logger.propagate = False
    logger.warning("x")
    return records


def makes_namedtuple():
    return collections.namedtuple("Made", "a b")


def makes_enum():
    return enum.Enum("Made", "A B")


def makes_types():
    return typing.NewType("Made", int), typing.TypeVar("T")


def writes_frame_locals():
    a = 1
    frame = sys._getframe()
    frame.f_locals["a"] = 5
    frame.f_locals["new"] = 7
    return a, frame.f_locals.get("new")


def lambdas_and_comprehensions():
    scale = 3
    made = (lambda x, *rest: [each + x for each in rest])(1, 2, 3)
    return made, {key: value * scale for key, value in {1: 2}.items()}, list(range(2)), {*made}


def matches(value):
    match value:
        case {"a": [1, *rest]}:
            return rest
        case Record(number=1):
            return "record"
        case str() | int() as found:
            return found
        case _:
            return None


def with_two():
    with Context() as first, Context():
        raise KeyError
    return first.described


def exception_groups():
    found = []
    try:
        raise ExceptionGroup("g", [ValueError(1), TypeError(2)])
    except* ValueError as group:
        found.append(len(group.exceptions))
    except* TypeError:
        found.append("type")
    return found


def raises(x):
    return (
        x +
        1 / 0
    )  # fmt: skip


def raises_from():
    try:
        raise KeyError(1)
    except KeyError as error:
        raise ValueError(2) from error


def raises_with_note(x):
    error = LookupError(x)
    error.add_note("a note")
    raise error


def many_ways_out(n):
    out = []
    for each in range(n):
        try:
            try:
                if each % 3 == 0:
                    raise ValueError
                if each % 3 == 1:
                    continue
                out.append(each)
            finally:
                out.append("finally")
        except ValueError:
            out.append("value")
        else:
            out.append("else")
    return out


def sets_global():
    global SET
    SET = 5
    return SET


def walrus(n):
    return [half for each in range(n) if (half := each // 2)]


def default_of_mutable(kept=[]):  # noqa: B006
    kept.append(1)
    return len(kept)


def recursive_sum(n):
    return n and n + recursive_sum(n - 1)


if sys.version_info >= (3, 12):
    exec(
        compile(
            """
def generic_function[T: int](x: T, *rest: T) -> T:
    type Listed[U] = list[U]
    return x, Listed.__name__, generic_function.__type_params__[0].__name__
class Generic[T]:
    def method[U](self, x: T, y: U) -> tuple[T, U]:
        return x, y, __class__.__name__
def inlined(n):
    return [(lambda: each)() for each in range(n)], [x for x in [y for y in range(n)]], sorted(locals())
""",
            __file__,
            "exec",
        )
    )
