"""Put a gate in front of a function's own bytecode, before RESUME: code in, code out.

A frame that has not reached its first RESUME is *incomplete* to CPython (`_PyFrame_IsIncomplete`): `sys._getframe`,
tracebacks and `sys._current_frames` skip it, so a call that goes through the open gate shows no trace of us.

What the prologue expects of the gate (attributes, so that the gate is the only constant of ours):
`ticks` an iterator, exhausted = open; `begin(gate)` → the call in flight `p`, or None to run the body in place;
`p.code` the code to run, `finish(p, result)`, `unwind(p, exception)`, `caught` the exceptions out of `begin` that also
mean "run the body in place", `missed` an iterator that counts these; `watch` an endless iterator: true = somebody
traces this thread, run the body in place, `traced` counts these. For generator-like functions `p.function` is set to
the inner function object, which dies with the body's frame, and `raised(gate, exception)` is called, unless it is
None, when an exception leaves the body.

Every line below that looks superfluous keeps an interpreter from crashing; the tests in `tests/attacks` name the crash.
"""

from __future__ import annotations

from autoprof.rewrite import epilogue, table
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
    CO_NEWLOCALS,
    CO_OPTIMIZED,
    GATE_NAMES,
    _Shape,
    _Writer,
)
from autoprof.rewrite.table import OPCODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

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
    return [
        entry("watching", "begun", "begin_except", 0),
        *tried,
        entry("unwind", "unwound", "unwind_failed", 2),
    ]


_templates: dict[tuple[int, ...], Template] = {}
_TEMPLATES_KEPT = 4096


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
    last_const = const + 2 + shape.keywords
    last_name = (name + len(GATE_NAMES)) << table.ATTR_SHIFT
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


def _with_epilogue(
    code: CodeType, raw: bytes, units: int, body: list[ExceptionEntry]
) -> tuple[bytes, list[ExceptionEntry]]:
    """Return the handler that goes behind a generator-like body, and the body's entries with it."""
    resume = epilogue.first_resume(raw)
    if resume is None:
        raise Unspliceable("a generator-like function without RESUME")
    tail, labels = epilogue.handler(len(code.co_consts), len(code.co_names) + _RAISED)
    end = units + (len(raw) >> 1)
    return tail, [*epilogue.fill_gaps(body, units + resume, end, end), epilogue.failing_entry(labels, end)]


def splice(code: CodeType, gate: object) -> CodeType:
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
    shape = _Shape(code)
    keyword_names: tuple[object, ...] = ()
    if shape.keywords:
        names = code.co_varnames[shape.args : shape.args + shape.keywords]
        keyword_names = (names,) if shape.needs_keyword_names() else (names, *names)
    prologue, labels = _prologue(shape, len(code.co_consts), len(code.co_names))
    units = len(prologue) >> 1
    body = [
        (start + units, length, target + units, depth)
        for start, length, target, depth in parse_exception_table(code.co_exceptiontable)
    ]
    tail = b""
    if shape.generator_like:
        tail, body = _with_epilogue(code, raw, units, body)
    entries = _exception_entries(labels, prefix) + body
    split = 2 * prefix
    return code.replace(
        co_code=raw[:split] + prologue + raw[split:] + tail,
        co_consts=(*code.co_consts, gate, *keyword_names),
        co_names=(*code.co_names, *GATE_NAMES),
        co_linetable=blank_locations(units) + code.co_linetable + blank_locations(len(tail) >> 1),
        co_exceptiontable=build_exception_table(entries),
        co_stacksize=max(code.co_stacksize, shape.stack_need()),
    )
