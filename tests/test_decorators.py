"""The six policies as decorators: the same object back, clear errors, rules before decorators."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import session
from autoprof.errors import OptionError
from autoprof.gate import gate_of
from tests import mechanisms

WEBASSEMBLY = sys.platform == "emscripten"
MODULE = __name__
KINDS = ("profile", "profile_production", "flame_graph", "profile_memory", "profile_calls")


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    autoprof.stop()


def status(function: str) -> list[Any]:
    return [each for each in autoprof.status() if each.target.endswith(function)]


@pytest.mark.parametrize("kind", KINDS)
def test_bare_and_with_options(kind: str) -> None:
    decorator = getattr(autoprof, kind)

    def bare(x: int) -> int:
        return x

    def given(x: int) -> int:
        return x

    assert decorator(bare) is bare
    assert decorator(metadata={"a": 1})(given) is given
    assert (bare(1), given(2)) == (1, 2)
    assert [each.policy for each in status("<locals>.bare")] == [kind]
    assert [each.policy for each in status("<locals>.given")] == [kind]


def test_profile_if_slow_needs_a_threshold() -> None:
    def function() -> int:
        return 1

    assert autoprof.profile_if_slow(500)(function) is function
    (found,) = status("<locals>.function")
    assert found.policy == "profile_if_slow"
    assert session.current is not None
    probe = session.current.installer.probes[found.target, "profile_if_slow"]
    assert probe.threshold_ns == 500_000_000
    assert autoprof.profile_if_slow(threshold="2s")(function) is function
    for wrong in (lambda: autoprof.profile_if_slow(), lambda: autoprof.profile_if_slow(function)):
        with pytest.raises((OptionError, TypeError)) as error:
            wrong()
        assert "threshold" in str(error.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rat": 0.5}, "rate"),
        ({"rate": 2}, "rate"),
        ({"rate": "a lot"}, "a lot"),
        ({"duration": "5 parsecs"}, "duration"),
        ({"strategy": "sampel"}, "sample"),
    ],
)
def test_wrong_options_say_what_would_be_right(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        autoprof.profile(**options)


@pytest.mark.parametrize("thing", [len, int, 5, "text", None, functools], ids=repr)
def test_what_is_no_python_function_is_refused_by_name(thing: Any) -> None:
    with pytest.raises(TypeError) as error:
        autoprof.profile(rate=1.0)(thing)
    name = getattr(thing, "__qualname__", None) or repr(thing)
    assert name in str(error.value)


def test_a_class_is_refused() -> None:
    with pytest.raises(TypeError, match="Thing is a class"):

        @autoprof.profile
        class Thing:
            pass


def test_descriptors_stay_the_same_objects() -> None:
    @staticmethod
    def static(x: int) -> int:
        return x

    @classmethod
    def of_class(cls: type, x: int) -> Any:
        return cls.__name__, x

    @property
    def value(self: Any) -> int:
        return 5

    @functools.cached_property
    def cached(self: Any) -> int:
        return 6

    things: list[Any] = [static, of_class, value, cached]
    assert all(autoprof.profile(rate=1.0)(each) is each for each in things)
    cached.__set_name__(object, "cached")
    Thing: Any = type("Thing", (), {"static": static, "of_class": of_class, "value": value, "cached": cached})
    thing = Thing()
    found = [thing.static(1), thing.of_class(2), thing.value, thing.cached, thing.cached]
    assert found == [1, ("Thing", 2), 5, 6, 6]
    counted = {each.target.rpartition(".")[2]: (each.calls, each.profiled) for each in autoprof.status()}
    assert counted == dict.fromkeys(("static", "of_class", "value", "cached"), (1, 1))


def test_closures_decorated_one_by_one_share_a_probe() -> None:
    def make(n: int) -> Any:
        @autoprof.profile(rate=1.0)
        def inner(x: int) -> int:
            return x + n

        return inner

    functions = [make(n) for n in range(4)]
    assert [each(1) for each in functions] == [1, 2, 3, 4]
    assert len({id(each.__code__) for each in functions}) == 1
    (found,) = status("<locals>.inner")
    assert (found.calls, found.profiled) == (4, 4)


def test_decorating_twice_changes_nothing() -> None:
    @autoprof.profile(rate=1.0)
    @autoprof.profile(rate=1.0)
    def function() -> int:
        return 1

    assert function() == 1
    (found,) = status("<locals>.function")
    assert (found.calls, found.profiled) == (1, 1)


def test_two_policies_on_one_function() -> None:
    @autoprof.profile_production(sample_rate=1.0)
    @autoprof.profile(rate=1.0)
    def function() -> int:
        return 1

    assert [function() for _ in range(3)] == [1, 1, 1]
    assert {each.policy: (each.calls, each.profiled) for each in status("<locals>.function")} == {
        "profile": (3, 3),
        "profile_production": (3, 3),
    }


def test_stop_gives_the_code_back() -> None:
    def function() -> int:
        return 1

    code = function.__code__
    autoprof.profile(rate=1.0)(function)
    assert function.__code__ is not code
    function()
    autoprof.stop()
    assert function.__code__ is code


def test_a_disabled_policy_does_not_touch_the_function() -> None:
    def function() -> int:
        return 1

    code = function.__code__
    autoprof.profile(enabled=False)(function)
    assert function.__code__ is code
    autoprof.profile(env=["nowhere"])(function)
    assert function.__code__ is code
    assert all(each.state == "disabled" for each in status("<locals>.function"))


@pytest.mark.parametrize("value", ["0", "false", "no", "off", " OFF "])
def test_switched_off_by_the_environment(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("AUTOPROF_ENABLED", value)

        def function() -> int:
            return 1

        code = function.__code__
        assert autoprof.profile(function) is function
        assert autoprof.profile(rate=1.0)(function) is function
        assert autoprof.profile_if_slow(5)(function) is function
        assert function.__code__ is code
        assert session.current is None


@pytest.mark.skipif(WEBASSEMBLY, reason="no processes in WebAssembly")
def test_switched_off_loads_nothing() -> None:
    program = (
        "import os, sys; os.environ['AUTOPROF_ENABLED'] = '0'\n"
        "from autoprof import profile\n"
        "@profile\ndef f(): pass\n"
        "print(sorted(n for n in sys.modules if n.startswith('autoprof')))\n"
    )
    done = mechanisms.python(program)
    assert done.stdout == "['autoprof', 'autoprof.decorators']\n", done.stderr


def _policy(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"version": 1, "output": "out", "rules": list(rules)}


def test_a_rule_wins_over_a_decorator() -> None:
    autoprof.start(_policy({"match": "subject_rule:f", "policy": "profile", "rate": 0}))
    assert session.current is not None
    source = "import autoprof\n@autoprof.profile(rate=1.0)\ndef f(): return 1\n"
    code = session.current.installer.rewrite_code(compile(source, "rule.py", "exec"), "subject_rule")
    scope: dict[str, Any] = {"__name__": "subject_rule"}
    exec(code, scope)
    assert scope["f"]() == 1
    (found,) = status("subject_rule:f")
    assert (found.rule, found.calls, found.profiled) == ("rule 1", 1, 0)


def test_policy_none_switches_decorators_off() -> None:
    autoprof.start(_policy({"match": f"{MODULE}:*", "policy": "none"}))

    def function() -> int:
        return 1

    code = function.__code__
    assert autoprof.profile(rate=1.0)(function) is function
    assert function.__code__ is code
    assert autoprof.status() == []


def test_portable_wrappers_keep_descriptors() -> None:
    autoprof.start({**_policy({"match": "nothing:x", "policy": "profile"}), "rewrite": "decorate"})

    class Thing:
        @autoprof.profile(rate=1.0)
        @staticmethod
        def static(x: int) -> int:
            return x

        @autoprof.profile(rate=1.0)
        @classmethod
        def of_class(cls, x: int) -> Any:
            return cls.__name__, x

        @autoprof.profile(rate=1.0)
        @property
        def value(self) -> int:
            """Doc."""
            return 5

        @autoprof.profile(rate=1.0)
        @functools.cached_property
        def cached(self) -> int:
            return 6

        @autoprof.profile(rate=1.0)
        def method(self, x: int) -> int:
            return x

    thing = Thing()
    assert [thing.static(1), Thing.static(1), thing.of_class(2), thing.value] == [1, 1, ("Thing", 2), 5]
    assert [thing.cached, thing.cached, thing.method(7)] == [6, 6, 7]
    assert Thing.__dict__["value"].__doc__ == "Doc."
    counted = {each.target.rpartition(".")[2]: (each.calls, each.profiled) for each in autoprof.status()}
    expected = dict.fromkeys(("of_class", "value", "cached", "method"), (1, 1))
    assert counted == {**expected, "static": (2, 2)}


def test_a_function_that_others_have_decorated() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    @autoprof.profile(rate=1.0)
    @logged
    def function(x: int) -> int:
        return x

    assert function(3) == 3
    assert gate_of(function.__code__) is not None, "the object that was decorated is the one that is measured"
    (found,) = status("<locals>.function")
    assert (found.calls, found.profiled) == (1, 1)


def test_threshold_decorator_counts_discarded() -> None:
    @autoprof.profile(rate=1.0, threshold="1h")
    def function() -> int:
        return 1

    function()
    (found,) = status("<locals>.function")
    assert (found.calls, found.profiled, found.discarded) == (1, 0, 1)
