"""Put a gate in front of a function's own bytecode, before RESUME: code in, code out.

A frame that has not reached its first RESUME is *incomplete* to CPython (`_PyFrame_IsIncomplete`): `sys._getframe`,
tracebacks and `sys._current_frames` skip it, so a call that goes through the open gate shows no trace of us.

What the prologue expects of the gate (attributes, so that only two constants are ours: it and the first of these):
`countdown` an iterator; at None the prologue steps on `runs`, another, and where that ends the gate is open;
`begin(gate)` → the call in flight `p`, or None to run the body in place; `p.code` the code to run, `finish(p, result)`,
`unwind(p, exception)`, `caught` the exceptions out of `begin` that also mean "run the body in place", `missed` an
iterator that counts these, and the calls after the end of the countdown; `watch` an endless iterator: true = somebody
traces this thread, run the body in place, `traced` counts these; `park`, an endless iterator, has the countdown yield
None the next time, too. For generator-like functions `p.function` is set to the inner function object, which dies with
the body's frame, and `raised(gate, exception)` is called, unless it is None, when an exception leaves the body. A gate
whose `timed` is true has the stopwatch in the body, see `rewrite.stopwatch`, and instead of the countdown `ticks`,
exhausted = open.

Every line below that looks superfluous keeps an interpreter from crashing; the tests in `tests/attacks` name the crash.
"""

from __future__ import annotations

from autoprof.rewrite import epilogue, stopwatch, table
from autoprof.rewrite.assemble import (
    LABEL,
    ExceptionEntry,
    assemble,
    blank_locations,
    build_exception_table,
    parse_exception_table,
)
from autoprof.rewrite.prologue import (
    _RAISED,
    CO_GENERATOR_LIKE,
    CO_NEWLOCALS,
    CO_OPTIMIZED,
    GATE_NAMES,
    KINDS,
    _Shape,
    _Writer,
    first_free_cell,
)
from autoprof.rewrite.stopwatch import time_body
from autoprof.rewrite.table import OPCODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any

Template = tuple[bytes, dict[str, int], tuple[int, ...], tuple[tuple[int, int], ...]]


class Unspliceable(Exception):
    """This code object does not have the shape that the prologue was verified on."""


def _exception_entries(labels: dict[str, int], base: int) -> list[tuple[int, int, int, int]]:
    def entry(start: str, end: str, target: str, depth: int) -> tuple[int, int, int, int]:
        return (base + labels[start], labels[end] - labels[start], base + labels[target], depth << 1)

    tried = [entry("try", "tried", "except", 1)]
    if table.MAKE_FUNCTION_OVERDRAWS:
        tried = [
            entry("try", "make", "except", 1),
            entry("make", "made", "not_made", 1),
            entry("made", "tried", "except", 1),
        ]
    clock = [entry("starting", "read", "unread", 0)] if "starting" in labels else []
    return [
        entry("asking", "begun", "begin_except", 0),
        *tried,
        entry("unwind", "unwound", "unwind_failed", 2),
        *clock,
    ]


class _Front:
    """What goes in front of all functions of a signature that have as many constants and names.

    Attributes:
        shape: their signature.
        prologue: its bytes.
        units: its length in code units.
        entries: of the exception table, for a body that `prefix` units stand before.
        table: the whole exception table of a body that has none of its own, as most have.
        locations: of the prologue.
        stack: what the prologue needs.
    """

    __slots__ = ("entries", "locations", "prologue", "shape", "stack", "table", "units")

    def __init__(self, shape: _Shape, const: int, name: int, prefix: int) -> None:
        self.shape = shape
        self.prologue, labels = _prologue(shape, const, name)
        self.units = len(self.prologue) >> 1
        self.entries = _exception_entries(labels, prefix)
        table = build_exception_table(self.entries)
        self.table = _tables.setdefault(table, table)
        self.locations = _locations(self.units, shape)
        self.stack = shape.stack_need()


_tables: dict[bytes, bytes] = {}
"""Exception tables of bodies without one of their own: the same object for all functions that have the same."""

_fronts: dict[tuple[int, ...], _Front] = {}
_FRONTS_KEPT = 512
"""Of 1.0 to 1.4 KB each."""

_templates: dict[tuple[int, ...], Template] = {}
_TEMPLATES_KEPT = 4096


def _front(code: CodeType, timed: bool, prefix: int) -> _Front:
    const, name, free = len(code.co_consts), len(code.co_names), len(code.co_freevars)
    kinds, first_cell = code.co_flags & KINDS, first_free_cell(code)
    key = (code.co_argcount, code.co_kwonlyargcount, kinds, timed, free, first_cell, prefix, const, name)
    front = _fronts.get(key)
    if front is None:
        if len(_fronts) >= _FRONTS_KEPT:
            _fronts.clear()
            if len(_tables) >= _TEMPLATES_KEPT:
                _tables.clear()
        front = _fronts[key] = _Front(_Shape(code, timed), const, name, prefix)
    return front


def _make_template(shape: _Shape) -> Template:
    """Assemble once per signature; constants and names are patched in, as long as they fit one byte."""
    instructions = _Writer(shape, 0, 0).prologue()
    code, labels, ends = assemble(instructions)
    consts: list[int] = []
    names: list[tuple[int, int]] = []
    for (name, _), end in zip(instructions, ends, strict=True):
        if name == LABEL:
            continue
        place = 2 * (end - table.CACHE_UNITS[name]) - 1
        if name in ("LOAD_CONST", "KW_NAMES"):
            consts.append(place)
        elif name == "LOAD_ATTR":
            names.append((place, table.ATTR_SHIFT))
        elif name == "STORE_ATTR":
            names.append((place, 0))
    return code, labels, tuple(consts), tuple(names)


def _prologue(shape: _Shape, const: int, name: int) -> tuple[bytes, dict[str, int]]:
    last_const = const + 3 + shape.keywords
    last_name = (name + len(GATE_NAMES) + len(stopwatch.NAMES)) << table.ATTR_SHIFT
    if last_const > 255 or last_name > 255:
        code, labels, _ = assemble(_Writer(shape, const, name).prologue())
        return code, labels
    key = shape.key()
    template = _templates.get(key)
    if template is None:
        if len(_templates) >= _TEMPLATES_KEPT:
            _templates.clear()
        template = _templates[key] = _make_template(shape)
    raw, labels, consts, names = template
    patched = bytearray(raw)
    for place in consts:
        patched[place] += const
    for place, shift in names:
        patched[place] += name << shift
    return bytes(patched), labels


def _prefix_units(raw: bytes, code: CodeType) -> int:
    """Return the units before which nothing may be put (COPY_FREE_VARS must run exactly once)."""
    units = 0
    if code.co_freevars:
        while raw[2 * units] == OPCODES["EXTENDED_ARG"]:
            units += 1
        if raw[2 * units] != OPCODES["COPY_FREE_VARS"]:
            raise Unspliceable("no COPY_FREE_VARS in front of free variables")
        units += 1
    first = 2 * units
    while raw[first] == OPCODES["EXTENDED_ARG"]:
        first += 2
    if raw[first] not in table.BODY_STARTS:
        raise Unspliceable(f"unexpected first instruction {raw[first]}")
    return units


def _resume(raw: bytes) -> int:
    resume = epilogue.first_resume(raw)
    if resume is None:
        raise Unspliceable("a function without RESUME")
    return resume


def _with_epilogue(
    code: CodeType, raw: bytes, body: list[ExceptionEntry]
) -> tuple[bytes, list[ExceptionEntry]]:
    """Return a generator-like body with the handler behind it, and its entries with the handler's."""
    end = len(raw) >> 1
    tail, labels = epilogue.handler(len(code.co_consts), len(code.co_names) + _RAISED)
    entries = epilogue.fill_gaps(body, _resume(raw), end, end)
    return raw + tail, [*entries, epilogue.failing_entry(labels, end)]


def _locations(units: int, shape: _Shape) -> bytes:
    """Return the location entries of a prologue: none, so that no tracer sees a line there.

    pydevd (debugpy, PyCharm) on 3.11 looks for a line before each RETURN_VALUE of a generator and raises in the
    application if there is none. Before the first RESUME nothing is traced: there the line of the `def` may stand.
    """
    if table.PY311 and shape.generator_like:
        return b"\xe8\x00" + blank_locations(units - 1)
    return blank_locations(units)


def _exception_table(front: _Front, body: list[ExceptionEntry]) -> bytes:
    if not body:
        return front.table
    units = front.units
    moved = [(start + units, length, target + units, depth) for start, length, target, depth in body]
    return build_exception_table(front.entries + moved)


def splice(code: CodeType, gate: Any) -> CodeType:
    """Return a copy of a function's code with the gate in front.

    Args:
        code: the code of a function (CO_OPTIMIZED and CO_NEWLOCALS), not of a module or class body.
        gate: hashable, with the attributes of the module's docstring; becomes a constant of the new code.

    Raises:
        Unspliceable: the code has another shape than the one verified; nothing was changed.
    """
    if code.co_flags & (CO_OPTIMIZED | CO_NEWLOCALS) != CO_OPTIMIZED | CO_NEWLOCALS:
        raise Unspliceable("not the code of a function")
    raw = code.co_code
    prefix = _prefix_units(raw, code)
    timed = bool(getattr(gate, "timed", False))
    if timed and code.co_flags & CO_GENERATOR_LIKE:
        raise Unspliceable("the stopwatch is for plain functions")
    front = _front(code, timed, prefix)
    shape = front.shape
    constants: tuple[object, ...] = (gate,)
    if shape.keywords:
        names = code.co_varnames[shape.args : shape.args + shape.keywords]
        constants += (names,) if shape.needs_keyword_names() else (names, *names)
    if not timed:
        constants += (gate.countdown,)
    body = parse_exception_table(code.co_exceptiontable)
    locations = code.co_linetable
    names_added: tuple[str, ...] = GATE_NAMES
    stack = code.co_stacksize
    if timed:
        watch = _Writer(shape, len(code.co_consts), len(code.co_names)).stopwatch()
        body_timed = time_body(code, body, watch, _resume(raw))
        raw, body, locations = body_timed.raw, body_timed.entries, body_timed.locations
        constants += (None,)
        names_added += stopwatch.NAMES
        stack = max(stack + 1, stopwatch.STACK_NEED)
    elif shape.generator_like:
        raw, body = _with_epilogue(code, raw, body)
        locations += blank_locations((len(raw) - len(code.co_code)) >> 1)
    split = 2 * prefix
    return code.replace(
        co_code=raw[:split] + front.prologue + raw[split:],
        co_consts=(*code.co_consts, *constants),
        co_names=(*code.co_names, *names_added),
        co_linetable=front.locations + locations,
        co_exceptiontable=_exception_table(front, body),
        co_stacksize=max(stack, front.stack),
    )
