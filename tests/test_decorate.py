"""The portable back end in the source: names, lines and kinds as the compiler gives them."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoprof.rewrite.decorate import decorate_source
from autoprof.rewrite.tree import is_function
from tests.stdlib_codes import chosen, inner_codes

WEBASSEMBLY = sys.platform == "emscripten"


def names_seen(source: str | bytes, path: str = "<test>") -> list[tuple[str, int]]:
    seen: list[tuple[str, int]] = []

    def wanted(qualname: str, line: int) -> bool:
        seen.append((qualname, line))
        return True

    decorate_source(source, path, wanted, lambda qualname, line: lambda function: function)
    return seen


def names_compiled(code: types.CodeType) -> list[str]:
    return [
        each.co_qualname
        for each in inner_codes(code)
        if is_function(each) and not each.co_name.startswith("<")
    ]


@pytest.mark.skipif(WEBASSEMBLY, reason="no sources of the standard library in WebAssembly")
def test_qualified_names_are_the_compilers() -> None:
    checked = 0
    for _, path, code in chosen(5):
        if not path.endswith(".py") or not Path(path).exists():
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen = names_seen(Path(path).read_bytes(), path)
        assert sorted(name for name, _ in seen) == sorted(names_compiled(code)), path
        checked += len(seen)
    assert checked > 1_000


def test_global_declarations_cut_the_qualified_name() -> None:
    source = """
def outer():
    if True:
        global a, C
    def a(): pass
    class C:
        def m(self): pass
        global b
        def b(self): pass
    def own():
        def a(): pass
    try:
        pass
    except ValueError:
        with open("x") as f:
            for i in ():
                def deep(): pass
    match 1:
        case 1:
            def matched(): pass
"""
    names = [name for name, _ in names_seen(source)]
    assert sorted(names) == sorted(names_compiled(compile(source, "<test>", "exec")))
    assert {"a", "C.m", "b", "outer.<locals>.own.<locals>.a"} <= set(names)


def test_lines_docstrings_and_future_imports_stay() -> None:
    source = '''"""The module."""
from __future__ import annotations

import functools

@functools.lru_cache
@functools.wraps(len)
def decorated(x: undefined_name) -> nothing:
    """Doc."""
    return x

def plain(): return 1
'''
    code = decorate_source(source, "<test>", lambda *_: True, lambda *_: lambda function: function)
    plain = compile(source, "<test>", "exec", dont_inherit=True)
    assert code.co_flags == plain.co_flags
    ours = {each.co_name: each for each in inner_codes(code)}
    theirs = {each.co_name: each for each in inner_codes(plain)}
    for name in ("decorated", "plain"):
        assert ours[name].co_firstlineno == theirs[name].co_firstlineno
        assert list(ours[name].co_lines()) == list(theirs[name].co_lines())
        assert ours[name].co_code == theirs[name].co_code
    scope: dict[str, Any] = {"__name__": "m"}
    exec(code, scope)
    assert scope["__doc__"] == "The module."
    assert scope["decorated"].__wrapped__ is not None
    assert scope["plain"].__annotations__ == {}


def test_nothing_of_ours_in_the_namespace() -> None:
    source = "def f(): return sorted(globals())\nclass A:\n    def m(self): return 1\n"
    code = decorate_source(source, "<test>", lambda *_: True, lambda *_: lambda function: function)
    ours: dict[str, Any] = {"__name__": "m"}
    plain: dict[str, Any] = {"__name__": "m"}
    exec(code, ours)
    exec(source, plain)
    assert sorted(ours) == sorted(plain)
    assert sorted(vars(ours["A"])) == sorted(vars(plain["A"]))
    assert ours["f"]() == plain["f"]()


def test_the_decorator_is_innermost_and_gets_the_place() -> None:
    source = "def mark(f):\n    marks.append(f)\n    return f\nmarks = []\n@mark\n@mark\ndef f(): pass\n"
    seen: list[Any] = []

    def decorator(qualname: str, line: int) -> Callable[[Any], Any]:
        def decorate(function: Any) -> Any:
            seen.append((qualname, line, function))
            return "wrapped"

        return decorate

    scope: dict[str, Any] = {"__name__": "m"}
    exec(decorate_source(source, "<test>", lambda name, _: name == "f", decorator), scope)
    assert [each[:2] for each in seen] == [("f", 7)]
    assert scope["marks"] == ["wrapped", "wrapped"]


@pytest.mark.parametrize("source", ["def f(:", b"\xff\xfe", "def f():\nreturn 1", "return 1", "x = '\0'"])
def test_bad_source_fails_as_the_plain_import_does(source: str | bytes) -> None:
    with pytest.raises((SyntaxError, ValueError)) as plain:
        compile(source, "<test>", "exec", dont_inherit=True)
    with pytest.raises(type(plain.value)):
        decorate_source(source, "<test>", lambda *_: True, lambda *_: lambda function: function)


def test_encodings_are_read_from_the_bytes() -> None:
    source = "# -*- coding: latin-1 -*-\ndef f(): return 'é'\n".encode("latin-1")
    scope: dict[str, Any] = {"__name__": "m"}
    exec(decorate_source(source, "<test>", lambda *_: True, lambda *_: lambda function: function), scope)
    assert scope["f"]() == "é"
