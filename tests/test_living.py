"""Every function that lives is found, wherever it is held, and no code of the application runs meanwhile."""

from __future__ import annotations

import builtins
import functools
import gc
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest

from autoprof import living
from tests import mechanisms

SOURCE = """\
import functools
held = []
def f(): pass
def make():
    def inner(): pass
    return inner
class A:
    def m(self): pass
    @property
    def p(self): pass
    @staticmethod
    def s(): pass
    @functools.lru_cache
    def c(self): pass
held.append(make())
held.append(functools.partial(make()))
held.append({"route": make()})
held.append(A().m)
lonely = [(lambda function: iter([function]))(make())]
"""


@pytest.fixture
def module() -> Iterator[Any]:
    name = "subject_living"
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(SOURCE, "/nowhere/living.py", "exec"), made.__dict__)
    yield made
    del sys.modules[name]


def found(name: str = "subject_living") -> list[str]:
    return sorted(each.__qualname__ for each in living.functions_of(lambda home: home == name))


EXPECTED = ["<lambda>", "A.c", "A.m", "A.p", "A.s", "f", "make", *["make.<locals>.inner"] * 4]


def test_every_function_is_found_once(module: Any) -> None:
    del module.lonely[:]
    gc.collect()
    assert found() == [each for each in EXPECTED if each != "<lambda>"][:-1]


def test_functions_of_a_module_with_builtins_of_its_own(module: Any) -> None:
    module.__dict__["__builtins__"] = {"len": len, "__build_class__": builtins.__build_class__}
    exec("def g(): return len('abc')", module.__dict__)
    assert "g" in found() and "f" in found() and module.g() == 3


def test_frozen_functions_are_found_too() -> None:
    program = f"""
import gc, sys, types
from autoprof import living
made = sys.modules["subject_living"] = types.ModuleType("subject_living")
exec(compile({SOURCE!r}, "/nowhere/living.py", "exec"), made.__dict__)
def found():
    return sorted(each.__qualname__ for each in living.functions_of(lambda home: home == "subject_living"))
before = found()
gc.freeze()
after = found()
print(before == after, len(before))
exec("def later(): pass", made.__dict__)
print("later" in found(), len(found()) - len(before))
"""
    done = mechanisms.python(program)
    assert (done.stdout, done.stderr) == (f"True {len(EXPECTED) - 1}\nTrue 1\n", "")


def test_a_service_that_froze_its_heap_is_reloaded_and_stopped() -> None:
    program = f"""
import gc, sys, types
import autoprof
made = sys.modules["subject_living"] = types.ModuleType("subject_living")
exec(compile({SOURCE!r}, "/nowhere/living.py", "exec"), made.__dict__)
plain = made.f.__code__
gc.freeze()
rule = {{"match": "subject_living:*", "policy": "profile", "rate": 1.0}}
off = {{"version": 1, "output": "/nowhere", "load": "off", "budget": "off", "reload": "off"}}
autoprof.start(off | {{"rules": [rule]}})
made.f(), made.held[0](), made.held[2]["route"]()
print(sorted((each.target.partition(":")[2], each.calls) for each in autoprof.status() if each.calls))
gc.freeze()
autoprof.start(off | {{"rules": []}})
print(made.f.__code__ is plain)
autoprof.start(off | {{"rules": [rule]}})
gc.freeze()
autoprof.stop()
print(made.f.__code__ is plain)
"""
    done = mechanisms.python(program)
    assert done.stdout == "[('f', 1), ('make.<locals>.inner', 2)]\nTrue\nTrue\n", done.stderr


def test_nothing_of_the_application_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    program = """
import gc, sys, types
from autoprof import living
ran = []
class Meta(type):
    def __hash__(cls): ran.append("hash"); return 1
    def __eq__(cls, other): ran.append("eq"); return True
    def __instancecheck__(cls, each): ran.append("instancecheck"); return True
class Odd(metaclass=Meta):
    @property
    def __class__(self): ran.append("class"); return int
    def __getattribute__(self, name): ran.append(name); return 1
    def __eq__(self, other): ran.append("eq"); return True
    def __bool__(self): ran.append("bool"); return True
class Lazy(types.ModuleType):
    def __getattribute__(self, name): ran.append(name); return {}
made = sys.modules["subject_living"] = types.ModuleType("subject_living")
sys.modules["subject_lazy"] = Lazy("subject_lazy")
sys.modules["subject_odd"] = Odd()
exec("def f(): pass", made.__dict__)
made.odd = [Odd(), Odd]
gc.freeze()
ran.clear()
found = living.functions_of(lambda home: home.startswith("subject"))
kept = list(ran)
print([each.__name__ for each in found], kept)
"""
    done = mechanisms.python(program)
    assert (done.stdout, done.stderr) == ("['f'] []\n", "")


def test_what_dies_meanwhile_dies_in_its_own_thread() -> None:
    died: list[int] = []

    class Mortal:
        def __init__(self) -> None:
            self.home = threading.get_ident()

        def __del__(self) -> None:
            if threading.get_ident() != self.home:
                died.append(self.home)

    going = True

    def churn() -> None:
        while going:
            [Mortal() for _ in range(50)]

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(200):
            living.functions_of(lambda home: home == "subject_living")
    finally:
        going = False
        thread.join()
        sys.setswitchinterval(before)
    assert died == []


def test_a_pass_keeps_nothing_alive(module: Any) -> None:
    made = module.make()
    functions = living.functions_of(lambda home: home == "subject_living")
    assert made in functions
    before = sys.getrefcount(made)
    del functions
    assert sys.getrefcount(made) == before - 1
    assert functools.reduce(lambda count, each: count + (each is made), gc.get_objects(), 0) == 1
