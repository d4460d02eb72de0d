"""Functions written in C or Cython that a rule names: wrapped as their module is imported, or reported with the reason."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import math
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import session, testing
from autoprof.store import StoreReader
from tests import mechanisms

WEBASSEMBLY = sys.platform == "emscripten"
pytestmark = pytest.mark.skipif(WEBASSEMBLY, reason="all modules in C are part of the interpreter there")
Start = Callable[..., Any]


@pytest.fixture(params=["splice", "decorate"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Give `start(module, *rules)`: a policy, then a fresh import of the module."""
    kept = dict(sys.modules)

    def begin(name: str, *rules: dict[str, Any], fresh: bool = True) -> Any:
        if fresh:
            sys.modules.pop(name, None)
        off = {"reload": "off", "budget": "off", "load": "off"}
        given = [{"policy": "profile", "rate": 1.0, **rule} for rule in rules or ({"match": f"{name}:*"},)]
        output = str(tmp_path / "out")
        autoprof.start({"version": 1, "output": output, "rewrite": request.param, **off, "rules": given})
        return importlib.import_module(name)

    yield begin
    autoprof.stop()
    for name in ("zlib", "_bisect", "_json", "_statistics", "math", "yaml._yaml"):
        if name in kept:
            sys.modules[name] = kept[name]
        else:
            sys.modules.pop(name, None)


def status(target: str) -> Any:
    (found,) = [each for each in autoprof.status() if each.target == target]
    return found


def test_functions_of_an_extension_are_wrapped(start: Start, tmp_path: Path) -> None:
    zlib = start("zlib", {"match": "zlib:*compress"})
    with testing.capture() as events:
        packed = zlib.compress(b"a" * 1000)
        assert zlib.decompress(packed) == b"a" * 1000
        with pytest.raises(zlib.error, match="incorrect header"):
            zlib.decompress(b"nonsense")
    assert [(each.name, each.target) for each in events if each.name != "start"] == [
        ("stop", "zlib:compress"), ("complete", "zlib:compress"),
        ("stop", "zlib:decompress"), ("complete", "zlib:decompress"),
        ("exception", "zlib:decompress"), ("complete", "zlib:decompress"),
    ]  # fmt: skip
    found = status("zlib:decompress")
    assert (found.state, found.calls, found.profiled) == ("installed", 2, 2)
    assert type(zlib.crc32) is types.BuiltinFunctionType
    autoprof.stop()
    rows = {row.target: row.calls for row in StoreReader([str(tmp_path / "out")]).select().probes}
    assert rows["zlib:compress"] == 1 and rows["zlib:decompress"] == 2


def test_a_stand_in_looks_like_the_function(start: Start) -> None:
    plain = importlib.import_module("zlib").compress
    zlib = start("zlib")
    stand_in = zlib.compress
    assert type(stand_in) is not type(plain)
    assert isinstance(stand_in, types.BuiltinFunctionType) and inspect.isbuiltin(stand_in)
    assert inspect.signature(stand_in) == inspect.signature(plain)
    assert (stand_in.__name__, stand_in.__qualname__, stand_in.__module__) == ("compress", "compress", "zlib")
    assert stand_in.__doc__ == plain.__doc__ and repr(stand_in) == repr(stand_in.__wrapped__)
    assert stand_in == stand_in.__wrapped__ and stand_in.__wrapped__ == stand_in
    assert hash(stand_in) == hash(stand_in.__wrapped__)
    assert copy.copy(stand_in) is stand_in and copy.deepcopy(stand_in) is stand_in


def test_it_is_no_method_where_a_class_holds_it(start: Start) -> None:
    """As with `class Timer: clock = time.perf_counter`."""
    zlib = start("zlib")
    Holder = type("Holder", (), {"pack": zlib.compress})
    assert zlib.decompress(Holder().pack(b"abc")) == b"abc"
    assert status("zlib:compress").calls == 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_it_travels_by_name(protocol: int, start: Start) -> None:
    zlib = start("zlib")
    stand_in = zlib.compress
    data = pickle.dumps(stand_in, protocol)
    assert pickle.loads(data) is stand_in
    autoprof.stop()
    assert pickle.loads(data) is zlib.compress is stand_in.__wrapped__
    assert pickle.loads(pickle.dumps(stand_in, protocol)) is zlib.compress
    done = mechanisms.python(
        f"import sys, pickle\nsys.modules['autoprof'] = None\nf = pickle.loads({data!r})\nprint(f)"
    )
    assert done.stdout == "<built-in function compress>\n", done.stderr


def test_stop_gives_the_functions_back(start: Start) -> None:
    zlib = start("zlib")
    taken = zlib.compress
    autoprof.stop()
    assert type(zlib.compress) is types.BuiltinFunctionType
    assert not [name for name, each in vars(zlib).items() if hasattr(each, "__wrapped__")]
    assert zlib.decompress(taken(b"abc")) == b"abc"  # whoever took it before goes on with it


def test_what_others_put_there_since_stays(start: Start) -> None:
    zlib = start("zlib")
    zlib.compress = len
    autoprof.stop()
    assert zlib.compress is len


def test_other_policies_measure_it_too(start: Start) -> None:
    module = start(
        "_bisect",
        {"match": "_bisect:bisect_left", "policy": "profile_memory"},
        {"match": "_bisect:insort_left", "policy": "profile_calls"},
        {"match": "_bisect:insort_right", "policy": "profile_calls", "callees": False},
        {"match": "_bisect:bisect_right", "policy": "profile_if_slow", "threshold": "1us", "rate": 1.0},
    )  # fmt: skip

    class Slow(int):
        def __lt__(self, other: object) -> bool:
            return sum(range(1000)) < 0

    things = [Slow(1)]
    with testing.capture() as events:
        module.bisect_left([1, 2, 3], 2)
        module.insort_left([1], 2)
        module.insort_right([1], 2)
        module.bisect_right(things, Slow(2))
    assert [each.target for each in events.named("memory")] == ["_bisect:bisect_left"]
    assert [each.measurements for each in events.named("calls")] == [{"calls": 1}, {"calls": 1}]
    assert [each.target for each in events.named("slow_operation")] == ["_bisect:bisect_right"]


def test_what_can_not_be_wrapped_is_reported(start: Start) -> None:
    importlib.import_module("_struct")
    zlib = start(
        "zlib",
        {"match": "math:sqrt"},
        {"match": "zlib:crc32", "policy": "profile", "strategy": "call_graph"},
        {"match": "zlib:adler32", "policy": "flame_graph"},
        {"match": ["zlib:*", "_thread:get_ident", "sys:exit", "_struct:Struct.pack*"]},
    )  # fmt: skip
    assert sys.modules["math"] is math and type(math.sqrt) is types.BuiltinFunctionType
    early = status("math:sqrt")
    assert early.state == "failed" and early.reason.startswith("math:sqrt is written in C and ")
    assert "imported before" in early.reason
    assert "part of the interpreter" in status("sys:exit").reason
    assert "part of the interpreter" in status("_thread:get_ident").reason
    for target in ("zlib:crc32", "zlib:adler32"):
        failed = [each for each in autoprof.status() if each.target == target and each.state == "failed"]
        assert [each.reason for each in failed] == [
            f"{target} is written in C, and {failed[0].strategy} follows Python code: sample and memory measure it"
        ]
    methods = [each for each in autoprof.status() if each.target.startswith("_struct:Struct.")]
    assert {each.target for each in methods} == {"_struct:Struct.pack", "_struct:Struct.pack_into"}
    assert all(each.state == "failed" and "method of a class" in each.reason for each in methods)
    assert zlib.crc32(b"a") == 3904355907 and not [each for each in methods if each.calls]


def test_an_exception_leaves_no_line_of_ours(start: Start) -> None:
    zlib = start("zlib")
    try:
        zlib.decompress(b"nonsense")
    except zlib.error as error:
        traceback = error.__traceback__
        assert traceback is not None and traceback.tb_next is None
        assert traceback.tb_frame.f_code.co_name == "test_an_exception_leaves_no_line_of_ours"


def test_python_code_that_takes_the_function_gets_the_stand_in(start: Start) -> None:
    """As `statistics` does with `from _statistics import …`; other names of the module are its own."""
    module = start("_json")
    assert module.encode_basestring_ascii("ä") == '"\\u00e4"'
    assert module.scanstring('x"', 0) == ("x", 2)
    assert isinstance(module.make_encoder, type) and isinstance(module.make_scanner, type)
    import json.encoder

    made = module.make_encoder(
        None, None, module.encode_basestring_ascii, None, ": ", ", ", False, False, True
    )
    assert "".join(made({"a": "ä"}, 0)) == '{"a": "\\u00e4"}' == json.encoder.JSONEncoder().encode({"a": "ä"})


def test_cythons_functions(start: Start) -> None:
    pytest.importorskip("yaml._yaml")
    plain = sys.modules["yaml._yaml"].get_version_string
    module = start("yaml._yaml", {"match": "yaml._yaml:get_version*"}, fresh=False)
    if "imported before" in status("yaml._yaml:get_version_string").reason:
        sys.modules.pop("yaml._yaml")
        autoprof.stop()
        module = start("yaml._yaml", {"match": "yaml._yaml:get_version*"})
    assert module.get_version_string() == plain()
    found = status("yaml._yaml:get_version_string")
    assert (found.state, found.calls, found.profiled) == ("installed", 1, 1)
    assert pickle.loads(pickle.dumps(module.get_version_string)) is module.get_version_string
    autoprof.stop()
    assert type(module.get_version_string).__name__ == "cython_function_or_method"


def test_threads_and_tasks(start: Start) -> None:
    zlib = start("zlib", {"match": "zlib:compress"})

    async def main() -> list[bytes]:
        return list(await asyncio.gather(*(asyncio.to_thread(zlib.compress, b"a" * 50) for _ in range(20))))

    assert len(set(asyncio.run(main()))) == 1
    found = status("zlib:compress")
    assert (found.calls, found.profiled) == (20, 20)


def test_a_failing_wrap_leaves_the_function(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprof import compiled, guard

    monkeypatch.setattr(compiled, "_replace", lambda *_: 1 / 0)
    monkeypatch.setattr(guard, "report", lambda *_: None)
    zlib = start("zlib", {"match": "zlib:compress"})
    assert type(zlib.compress) is types.BuiltinFunctionType
    found = status("zlib:compress")
    assert (found.state, found.reason) == ("failed", "zlib:compress can't be wrapped: ZeroDivisionError")


def test_a_session_that_ends_twice(start: Start) -> None:
    start("zlib")
    session.stop()
    session.stop()
    assert session.status() == []
