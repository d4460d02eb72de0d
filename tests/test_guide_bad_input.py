"""Wrong rules and wrong decorators: an error that says where, what was given, what would be right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import autoprof
from autoprof import config
from autoprof.errors import OptionError, PolicyErrors

WRONG_RULES = {
    "policy: profile, rate: -0.1": ("rate", "-0.1"),
    "policy: profile, rate: 1.5": ("rate", "1.5"),
    "policy: profile_production, sample_rate: 200%": ("sample_rate", "200%"),
    "policy: profile_memory, rate: -1": ("rate", "-1"),
    "policy: profile_if_slow": ("profile_if_slow needs threshold", "100ms"),
    "policy: profile_if_slow, threshold: -5": ("threshold", "-5"),
    "policy: profile, strategy: sampel": ("strategy", "did you mean sample"),
    "policy: profile, strategy: fprof, format: svg": ("format", "callgrind"),
    "policy: flame_graph, format: pdf": ("format", "svg"),
    "policy: profil": ("policy", "did you mean profile"),
}
WRONG_DECORATORS: dict[str, tuple[Any, ...]] = {
    "profile(rate=-0.1)": ("rate", "-0.1"),
    "profile(rate=1.5)": ("rate", "1.5"),
    "profile_production(sample_rate=2)": ("sample_rate", "2"),
    "profile_if_slow()": ("needs threshold",),
    "profile(strategy='sampel')": ("sampel", "did you mean sample"),
    "flame_graph(format='pdf')": ("format", "svg"),
    "profile(strategy='fprof', format='svg')": ("format", "callgrind"),
    "profile_memory(callees=True)": ("callees", "profile_calls"),
}


@pytest.mark.parametrize("rule", WRONG_RULES)
def test_a_wrong_rule_is_told_with_its_place(rule: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(f"version: 1\nrules:\n  - {{match: 'shop.db:find', {rule}}}\n")
    with pytest.raises(PolicyErrors) as raised:
        config.load(str(path), env={})
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{path}:3:")
    assert all(each in line for each in WRONG_RULES[rule]), line


@pytest.mark.parametrize("decorator", WRONG_DECORATORS)
@pytest.mark.parametrize("thing", ["def victim():", "async def victim():", "class victim:"])
def test_a_wrong_decorator_names_its_function(decorator: str, thing: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    source = (
        f"from autoprof import *\n\ndef other(): pass\n\n@staticmethod\n@{decorator}\n{thing}\n    pass\n"
    )
    path.write_text(source)
    with pytest.raises(OptionError) as raised:
        exec(compile(source, str(path), "exec"), {"__name__": "wrong_shop"})
    said = str(raised.value)
    assert "wrong_shop:victim" in said, said
    assert all(each in said for each in WRONG_DECORATORS[decorator]), said


def test_a_wrong_decorator_without_source_is_an_error_all_the_same() -> None:
    for source in ("profile(rate=2)", "f = [profile(rate=2)]", "(lambda: profile(rate=2))()"):
        with pytest.raises(OptionError, match="rate"):
            exec(f"from autoprof import profile\n{source}\n", {"__name__": "nowhere"})


def test_a_wrong_decorator_called_on_a_function_names_it() -> None:
    def victim() -> None: ...

    with pytest.raises(OptionError, match=r"test_guide_bad_input:.*victim.*rate"):
        autoprof.profile(victim, rate=2)


def test_methods_are_named_with_their_class(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    source = "from autoprof import *\nclass Shop:\n    @profile(\n        rate=7,\n    )\n    def sell(self): pass\n"
    path.write_text(source)
    with pytest.raises(OptionError, match=r"wrong_shop:Shop.sell"):
        exec(compile(source, str(path), "exec"), {"__name__": "wrong_shop"})


@pytest.mark.parametrize(
    "kind", ["profile", "profile_production", "flame_graph", "profile_memory", "profile_calls"]
)
@pytest.mark.parametrize(
    "thing", [len, dict, "text", asyncio, [].append, object()], ids=lambda x: type(x).__name__
)
def test_what_is_no_function_is_named(kind: str, thing: Any) -> None:
    try:
        with pytest.raises(TypeError) as raised:
            getattr(autoprof, kind)(thing)
        assert (getattr(thing, "__qualname__", None) or repr(thing)) in str(raised.value)
    finally:
        autoprof.stop()
