"""Bytes of code objects: what the assembler writes, the interpreter reads back the same."""

from __future__ import annotations

import dis
import random
from itertools import pairwise
from types import CodeType

import pytest

from autoprof.rewrite import table
from autoprof.rewrite.assemble import (
    LABEL,
    assemble,
    blank_locations,
    build_exception_table,
    parse_exception_table,
    shift_exception_table,
)
from autoprof.rewrite.prologue import CO_GENERATOR_LIKE, _Shape, _Writer
from autoprof.rewrite.splice import Unspliceable, splice
from autoprof.rewrite.tree import is_function
from tests.stdlib_codes import chosen, inner_codes

EVERY = 1


def codes() -> list[CodeType]:
    return [code for _, _, module in chosen(EVERY) for code in inner_codes(module)]


def test_exception_tables_round_trip() -> None:
    seen = 0
    for code in codes():
        entries = parse_exception_table(code.co_exceptiontable)
        assert build_exception_table(entries) == code.co_exceptiontable
        seen += len(entries)
    assert seen > 1_000


def test_exception_tables_mean_what_dis_reads() -> None:
    checked = 0
    for code in codes()[::10]:
        read = [
            (each.start // 2, (each.end - each.start) // 2, each.target // 2, each.depth << 1 | each.lasti)
            for each in dis._parse_exception_table(code)  # type: ignore[attr-defined]
        ]
        assert parse_exception_table(code.co_exceptiontable) == read
        checked += len(read)
    assert checked


def test_shifting_by_nothing_and_back() -> None:
    for code in codes()[::20]:
        there = shift_exception_table(code.co_exceptiontable, 1000)
        assert shift_exception_table(there, -1000) == code.co_exceptiontable


def test_any_exception_table_round_trips() -> None:
    hypothesis = pytest.importorskip("hypothesis")
    strategies = hypothesis.strategies
    number = strategies.one_of(strategies.integers(0, 100), strategies.integers(0, 2**30))

    @hypothesis.settings(max_examples=200, deadline=None, database=None)
    @hypothesis.given(strategies.lists(strategies.tuples(number, number, number, number), max_size=8))
    def check(entries: list[tuple[int, int, int, int]]) -> None:
        encoded = build_exception_table(entries)
        assert parse_exception_table(encoded) == entries
        assert sum(byte >= 128 for byte in encoded) == len(entries)

    check()


@pytest.mark.parametrize("units", [*range(20), 63, 64, 65, 511])
def test_blank_locations_cover_exactly(units: int) -> None:
    def function() -> int:
        return 1

    code = function.__code__
    blank = code.replace(
        co_code=bytes((table.OPCODES["NOP"], 0)) * units + code.co_code,
        co_linetable=blank_locations(units) + code.co_linetable,
    )
    assert list(blank.co_positions())[:units] == [(None, None, None, None)] * units
    assert list(blank.co_positions())[units:] == list(code.co_positions())
    lines = [
        (start - 2 * units, end - 2 * units, line)
        for start, end, line in blank.co_lines()
        if line is not None
    ]
    assert lines == [each for each in code.co_lines() if each[2] is not None]


def test_jumps_of_every_length_land_on_their_label() -> None:
    for distance in (0, 1, 254, 255, 256, 257, 65_535, 65_536, 70_000):
        code, labels, _ = assemble(
            [("JUMP_FORWARD", "end"), *[("NOP", 0)] * distance, (LABEL, "end"), ("NOP", 0)]
        )
        argument, position = 0, 0
        while code[position] == table.OPCODES["EXTENDED_ARG"]:
            argument = argument << 8 | code[position + 1]
            position += 2
        argument = argument << 8 | code[position + 1]
        assert code[position] == table.OPCODES["JUMP_FORWARD"]
        assert position // 2 + 1 + argument == labels["end"] == len(code) // 2 - 1
        assert argument == distance


def test_arguments_of_every_length() -> None:
    for value in (0, 255, 256, 65_535, 65_536, 2**24, 2**31 - 1):
        code, _, _ = assemble([("LOAD_CONST", value)])
        decoded = 0
        for position in range(0, len(code), 2):
            decoded = decoded << 8 | code[position + 1]
        assert decoded == value
        assert code[-2 - 2 * table.CACHE_UNITS["LOAD_CONST"]] == table.OPCODES["LOAD_CONST"]


def test_caches_are_left_room_for() -> None:
    for name in ("LOAD_ATTR", "CALL", "FOR_ITER", "STORE_ATTR"):
        code, _, _ = assemble([(name, 0)])
        assert len(code) == 2 + 2 * table.CACHE_UNITS[name]
        first, *rest = dis.get_instructions(_with(code))
        assert (first.opname, rest) == (name, [])


def _with(raw: bytes) -> CodeType:
    return (lambda: None).__code__.replace(
        co_code=raw, co_names=("name",), co_linetable=blank_locations(len(raw) // 2)
    )


OURS = 5 if table.MAKE_FUNCTION_OVERDRAWS else 3
"""Entries of the prologue in the exception table."""


class Nobody:
    """A gate that is never run."""

    countdown = iter(())


def test_splicing_the_standard_library_leaves_every_body_as_it_is() -> None:
    spliced = 0
    for code in codes():
        if not is_function(code):
            continue
        new = splice(code, Nobody())
        check_body(code, new)
        spliced += 1
    assert spliced > 500


def check_body(code: CodeType, new: CodeType) -> None:
    """The body is there as a whole, with something in front and, where it runs later, a handler behind."""
    prefix = 0
    if code.co_freevars:
        while code.co_code[prefix] == table.OPCODES["EXTENDED_ARG"]:
            prefix += 2
        prefix += 2
    later = bool(code.co_flags & CO_GENERATOR_LIKE)
    body = code.co_code[prefix:]
    start = new.co_code.rindex(body) if later else len(new.co_code) - len(body)
    added = start - prefix
    assert new.co_code[:prefix] == code.co_code[:prefix]
    assert new.co_code[start : start + len(body)] == body
    assert new.co_consts[: len(code.co_consts)] == code.co_consts
    assert new.co_names[: len(code.co_names)] == code.co_names
    shifted = [
        (start + added // 2, length, target + added // 2, depth)
        for start, length, target, depth in parse_exception_table(code.co_exceptiontable)
    ]
    entries = parse_exception_table(new.co_exceptiontable)
    assert set(shifted) <= set(entries) if later else entries[OURS:] == shifted
    assert all(a[0] + a[1] <= b[0] for a, b in pairwise(entries)), "the table must be sorted"
    assert entries[OURS - 1][0] + entries[OURS - 1][1] <= (prefix + added) // 2
    positions = list(code.co_positions())
    assert list(new.co_positions())[added // 2 :][: len(positions)] == positions
    assert new.co_stacksize >= max(code.co_stacksize, 8)
    for name in (
        "co_flags",
        "co_name",
        "co_qualname",
        "co_filename",
        "co_firstlineno",
        "co_varnames",
        "co_cellvars",
    ):
        assert getattr(new, name) == getattr(code, name)


def test_templates_give_what_assembling_gives() -> None:
    from autoprof.rewrite import splice as module

    choose = random.Random(1)
    functions = [code for code in codes() if is_function(code)]
    for code in choose.sample(functions, 200):
        shape = _Shape(code)
        for const, name in ((0, 0), (7, 3), (200, 100), (250, 120), (300, 5), (5, 300)):
            direct, labels, _ = assemble(_Writer(shape, const, name).prologue())
            assert module._prologue(shape, const, name) == (direct, labels)


@pytest.mark.skipif(table.VERSION == (3, 12), reason="3.12 looks a handler up at the CALL itself: edges do not matter")
def test_no_call_at_the_edge_of_a_range() -> None:
    """3.13 looks up the handler of a raising call one unit early: each range starts and ends beside a NOP."""
    calls = {"CALL", "CALL_KW", "CALL_FUNCTION_EX", "PRECALL"}
    for code in (check_body.__code__, codes.__code__, assemble.__code__):
        new = splice(code, Nobody())
        names = {each.offset // 2: each.opname for each in dis.get_instructions(new)}
        for start, length, _, _ in parse_exception_table(new.co_exceptiontable)[:OURS]:
            assert names[start] not in calls
            assert names.get(start + length) not in calls
            inside = [unit for unit in sorted(names) if start <= unit < start + length]
            assert names[inside[-1]] not in calls


@pytest.mark.parametrize(
    "source",
    ["x = 1", "class A: pass", "[i for i in x]", "import a"],
    ids=["module", "class", "eval", "import"],
)
def test_what_is_no_function_is_refused(source: str) -> None:
    with pytest.raises(Unspliceable):
        splice(compile(source, "<test>", "exec"), Nobody())


def test_an_unknown_beginning_is_refused() -> None:
    def function() -> None:
        pass

    code = function.__code__
    nop = bytes((table.OPCODES["NOP"], 0))
    with pytest.raises(Unspliceable, match="first instruction"):
        splice(
            code.replace(co_code=nop + code.co_code, co_linetable=blank_locations(1) + code.co_linetable),
            Nobody(),
        )

    cell = 1

    def closure() -> int:
        return cell

    code = closure.__code__
    with pytest.raises(Unspliceable, match="COPY_FREE_VARS"):
        splice(
            code.replace(co_code=nop + code.co_code, co_linetable=blank_locations(1) + code.co_linetable),
            Nobody(),
        )
