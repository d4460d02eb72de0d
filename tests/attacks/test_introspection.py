"""What anybody can find out about a function, its frames and its failures is what it was."""

from __future__ import annotations

import copy
import dis
import doctest
import inspect
import io
import itertools
import os
import pickle
import sys
import traceback
import types
import typing
import unittest.mock
import warnings
from pathlib import Path
from typing import Any

import pytest

from .arena import assert_same, attack, probe

CASES: dict[str, Any] = {}
SHOW = 400


def functions_of(module: Any) -> list[types.FunctionType]:
    """Return every function written in a module: of classes, in properties, behind wrappers."""
    found: dict[int, types.FunctionType] = {}

    def walk(each: Any) -> None:
        if isinstance(each, (staticmethod, classmethod)):
            each = each.__func__
        if isinstance(each, property):
            for part in (each.fget, each.fset, each.fdel):
                walk(part)
            return
        wrapped = getattr(each, "__wrapped__", None) or getattr(each, "func", None)
        if wrapped is not None and not isinstance(each, type):
            walk(wrapped)
        if isinstance(each, types.FunctionType) and each.__module__ == module.__name__:
            if each.__code__.co_filename == module.__file__:
                found[id(each)] = each
        elif isinstance(each, type) and each.__module__ == module.__name__:
            for part in list(vars(each).values()):
                if not isinstance(part, type):
                    walk(part)

    for each in list(vars(module).values()):
        walk(each)
        for implementation in getattr(each, "registry", {}).values():  # of a single dispatch
            walk(implementation)
    return list(found.values())


def places(error: BaseException) -> list[Any]:
    found = []
    for each in traceback.extract_tb(error.__traceback__)[1:]:
        found.append((each.name, each.lineno, getattr(each, "colno", None), getattr(each, "end_colno", None)))
    return found


def outcome(call: Any) -> str:
    try:
        return repr(call())
    except BaseException as error:
        text = "".join(traceback.format_exception(error)).split("specimens.py", 1)[-1]
        return repr((type(error), str(error), places(error), error.__cause__, error.__context__, text))


def warned(s: Any) -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        s.warned()
    return [(Path(each.filename).name, each.lineno) for each in caught]


def attributes(s: Any) -> Any:
    made = s.Attributes()
    made.value = 3
    kept = made.kept
    del made.value
    return (
        [made.value, kept, made.kept, made.static(1), made.of_class(2), s.Attributes.of_class(1)],
        [made.cached is made.cached, made.memoised() is made.memoised(), made[3], list(made)],
        [made == 3, hash(made), made.calls_mangled(), made(1, k=2)],
    )


def patched(s: Any) -> Any:
    with unittest.mock.patch.object(s, "everything", autospec=True) as mocked:
        s.everything(1, d=3)
        return mocked.call_args


def questions(s: Any, functions: list[types.FunctionType]) -> dict[str, Any]:
    """Return every question by name: what is asked about the specimens `s`."""
    simple = {name: (lambda function=getattr(s, name): function()) for name in (
        "frame_names_below", "name_of_caller", "logged", "writes_frame_locals", "lambdas_and_comprehensions",
        "with_two", "exception_groups", "raises_from", "sets_global",
    )}  # fmt: skip
    more = {
        "call with everything": lambda: s.everything(1, "q", 4, 5, 6, d=7, z=9),
        "call with defaults": lambda: s.everything(1, d=2),
        "missing argument": lambda: s.everything(1),
        "positional-only by keyword": lambda: s.everything(a=1, d=1),
        "unexpected keyword": lambda: s.only_keywords(z=1, q=2),
        "too many": lambda: s.only_positional(1, 2, 3),
        "keywords": lambda: (s.only_keywords(z=1), s.only_keywords(y=1, z=2)),
        "positional": lambda: (s.only_positional(1), s.only_positional(1, 2)),
        "rest": lambda: (s.rebinds_rest(1, 2), s.rebinds_rest()),
        "keywords are a copy": lambda: (lambda given: (s.changes_keywords(**given), given))({"a": 1}),
        "signatures": lambda: [str(inspect.signature(each)) for each in functions],
        "full argument specs": lambda: [inspect.getfullargspec(each) for each in functions],
        "type hints": lambda: typing.get_type_hints(s.everything),
        "doctest": lambda: doctest.testmod(s),
        "sources": lambda: [inspect.getsource(each) for each in functions if "generic" not in each.__name__],
        "first lines": lambda: [inspect.getsourcelines(each)[1] for each in functions],
        "single dispatch": lambda: (s.generic(1), s.generic([]), s.generic("")),
        "dataclass": lambda: (s.Record(1), s.Record(1) < s.Record(2), s.Record(3).doubled()),
        "enum": lambda: (s.Colour(7), s.Colour.BLUE.described(), s.Colour.BLUE.squared, list(s.Colour)),
        "abstract": lambda: s.Abstract(),
        "super": lambda: (s.Concrete().method(), s.Concrete[3], s.Sub.options),
        "metaclass": lambda: (
            s.WithMeta(4).value,
            s.WithMeta().marked,
            s.WithMeta.prepared,
            s.WithMeta().nope,
        ),
        "wrapped": lambda: (s.decorated(3), s.decorated.__wrapped__(4)),
        "locals": lambda: s.seen_locals(1),
        "deleted argument": lambda: s.deletes_argument(1, 2),
        "argument let go": lambda: s.lets_go(type("Thing", (), {})()),
        "argument in a cell": lambda: [s.argument_in_a_cell(1, 2, k=3, z=4)() for _ in range(3)],
        "nonlocal": lambda: (lambda increase: (increase(), increase(2), increase()))(s.counter()),
        "warning": lambda: warned(s),
        "namedtuple's module": lambda: s.makes_namedtuple().__module__,
        "enum's module": lambda: s.makes_enum().__module__,
        "types' modules": lambda: [each.__module__ for each in s.makes_types()],
        "match": lambda: [s.matches(each) for each in ({"a": [1, 2]}, 3, "s", 2.0, s.Record(0))],
        "carets": lambda: s.raises(1),
        "note": lambda: s.raises_with_note(1),
        "ways out": lambda: s.many_ways_out(7),
        "attributes": lambda: attributes(s),
        "walrus": lambda: s.walrus(6),
        "recursion": lambda: s.recursive_sum(20),
        "autospec": lambda: unittest.mock.create_autospec(s.everything)(1),
        "patch": lambda: patched(s),
        "copies": lambda: [copy.copy(each) is each is copy.deepcopy(each) for each in functions],
        "pickled by name": lambda: pickle.loads(pickle.dumps(s.everything)) is s.everything,
        "renamed copy": lambda: types.FunctionType(
            s.only_positional.__code__.replace(co_name="other"), vars(s), "other", (5,)
        )(1),
        "code": lambda: [
            (
                each.__code__.co_name,
                each.__code__.co_qualname,
                each.__code__.co_firstlineno,
                each.__code__.co_varnames,
                each.__code__.co_freevars,
                each.__code__.co_cellvars,
                each.__code__.co_flags,
                each.__code__.co_argcount,
                each.__code__.co_kwonlyargcount,
            )
            for each in functions
        ],
        "lines": lambda: [
            sorted({line for *_, line in each.__code__.co_lines() if line}) for each in functions
        ],
        "line starts": lambda: [
            sorted({line for _, line in dis.findlinestarts(each.__code__) if line}) for each in functions
        ],
        "closure variables": lambda: [sorted(inspect.getclosurevars(each).globals) for each in functions],
        "kinds": lambda: [
            (inspect.iscoroutinefunction(each), inspect.isgeneratorfunction(each), inspect.isfunction(each))
            for each in functions
        ],
    }
    if sys.version_info >= (3, 12):
        more["type parameters"] = lambda: (
            s.generic_function(1),
            s.Generic().method(1, 2),
            s.generic_function.__type_params__,
            s.inlined(3),
        )
    return {**simple, **more}


def answers(s: Any, functions: list[types.FunctionType]) -> dict[str, str]:
    return {name: outcome(call)[:6000] for name, call in questions(s, functions).items()}


@attack(flags=())
def test_every_answer_is_the_same() -> None:
    compare()


@attack(flags=("-OO",))
def test_every_answer_is_the_same_under_oo() -> None:
    compare()


def compare() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import class_specimens
    import specimens

    functions = [*functions_of(specimens), *functions_of(class_specimens)]
    assert len(functions) > 60
    answers(specimens, functions)
    plain = answers(specimens, functions)
    assert sum("Error" in each for each in plain.values()) < 14, [k for k, v in plain.items() if "Error" in v]
    probes = [probe(each) for each in functions]
    for _ in range(2):
        assert_same(plain, answers(specimens, functions))
    assert sum(each.profiled for each in probes) > 200
    consistent(functions)


def consistent(functions: list[types.FunctionType]) -> None:
    """See that the tables of the new code objects fit their instructions."""
    for each in functions:
        code = each.__code__
        units = len(code.co_code) // 2
        assert len(list(code.co_positions())) == units
        lines = list(code.co_lines())
        assert lines[0][0] == 0 and lines[-1][1] == 2 * units
        assert all(before[1] == after[0] for before, after in itertools.pairwise(lines))
        dis.dis(each, file=io.StringIO())
        assert list(dis.get_instructions(code, adaptive=True))
        assert hash(code) == hash(code.replace()) and code == code


@attack
def test_frames_are_found_once_from_inside_and_from_other_threads() -> None:
    import threading

    inside, leave = threading.Event(), threading.Event()

    def waits(x: int, *rest: int, **more: int) -> str:
        inside.set()
        leave.wait(10)
        return inspect.stack()[1].function

    def between(x: int) -> str:
        return waits(x, 1, k=2)

    probe(waits)
    probe(between)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(between(1)))
    thread.start()
    inside.wait(10)
    assert thread.ident is not None
    names = []
    frame: Any = sys._current_frames()[thread.ident]
    while frame is not None:
        names.append(frame.f_code.co_name)
        assert frame.f_lineno is not None
        frame = frame.f_back
    leave.set()
    thread.join()
    assert names.count("waits") == names.count("between") == 1
    assert not any(os.sep + "autoprof" + os.sep in each for each in names)
    assert found == ["between"]


@attack
def test_what_the_prologue_says_of_itself() -> None:
    """The two differences that are left, both of use to nobody: names without a meaning, and bytes."""
    import marshal

    def function(x: int) -> int:
        return x

    probe(function)
    unbound = inspect.getclosurevars(function).unbound
    from autoprof.rewrite import stopwatch
    from autoprof.rewrite.prologue import GATE_NAMES

    assert unbound <= {*GATE_NAMES, *stopwatch.NAMES}
    with pytest.raises(ValueError, match="unmarshallable"):
        marshal.dumps(function.__code__)
