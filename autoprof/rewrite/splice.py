"""Put a gate in front of a function's own bytecode, before RESUME: code in, code out.

A frame that has not reached its first RESUME is *incomplete* to CPython (`_PyFrame_IsIncomplete`): `sys._getframe`,
tracebacks and `sys._current_frames` skip it, so a call that goes through the open gate shows no trace of us.

What the prologue expects of the gate (attributes, so that the gate is the only constant of ours):
`ticks` an iterator, exhausted = open; `begin(gate)` → the call in flight `p`, or None to run the body in place;
`p.code` the code to run, `finish(p, result)`, `unwind(p, exception)`, `caught` the exceptions out of `begin` that also
mean "run the body in place", `missed` an iterator that counts these; `watch` an endless iterator: true = somebody traces this thread, run the
body in place, `traced` counts these. For generator-like functions `p.function` is set
to the inner function object, which dies with the body's frame, and `raised(gate, exception)` is called, unless it is
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
from autoprof.rewrite.table import OPCODES, Instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

CO_OPTIMIZED, CO_NEWLOCALS, CO_VARARGS, CO_VARKEYWORDS = 0x1, 0x2, 0x4, 0x8
CO_GENERATOR_LIKE = 0x20 | 0x80 | 0x200
GATE_NAMES = ("ticks", "begin", "finish", "unwind", "caught", "code", "function", "raised", "missed", "lost", "watch", "traced")
_TICKS, _BEGIN, _FINISH, _UNWIND, _CAUGHT, _CODE, _FUNCTION, _RAISED, _MISSED, _LOST, _WATCH, _TRACED = range(12)
_STACK_MARGIN = 12

Part = list[Instruction]
Template = tuple[bytes, dict[str, int], tuple[int, ...], tuple[tuple[int, int], ...]]


class Unspliceable(Exception):
    """This code object does not have the shape that the prologue was verified on."""


class _Shape:
    """The signature of a code object as far as the prologue depends on it."""

    __slots__ = ("args", "first_cell", "free", "generator_like", "keywords", "star", "starstar")

    def __init__(self, code: CodeType) -> None:
        flags = code.co_flags
        self.args = code.co_argcount
        self.keywords = code.co_kwonlyargcount
        self.star = bool(flags & CO_VARARGS)
        self.starstar = bool(flags & CO_VARKEYWORDS)
        self.generator_like = bool(flags & CO_GENERATOR_LIKE)
        self.free = len(code.co_freevars)
        self.first_cell = 0
        if self.free:
            local_names = code.co_varnames
            self.first_cell = code.co_nlocals + sum(name not in local_names for name in code.co_cellvars)

    def key(self) -> tuple[int, ...]:
        return (
            self.args,
            self.keywords,
            self.star,
            self.starstar,
            self.generator_like,
            self.free,
            self.first_cell,
        )

    def needs_keyword_names(self) -> bool:
        return bool(self.keywords) and not self.star and not self.starstar

    def stack_need(self) -> int:
        return _STACK_MARGIN + max(self.free, self.args + self.keywords + 1, 2 * self.keywords)


class _Writer:
    """Writes the prologue for constants that start at `const` and names that start at `name`."""

    __slots__ = ("const", "name", "shape")

    def __init__(self, shape: _Shape, const: int, name: int) -> None:
        self.shape = shape
        self.const = const
        self.name = name

    def gate(self) -> Instruction:
        return ("LOAD_CONST", self.const)

    def attribute(self, which: int) -> Instruction:
        return ("LOAD_ATTR", (self.name + which) << table.ATTR_SHIFT)

    def prologue(self) -> Part:
        return [
            *self.countdown(),
            *self.watch(),
            *self.begin(),
            (LABEL, "try"),
            *self.inner_function(),
            *self.inner_call(),
            *self.finish(),
            *self.not_made(),
            *self.unwind(),
            *self.begin_failed(),
            (LABEL, "declined"),
            ("POP_TOP", 0),
            (LABEL, "body"),
        ]

    def iterator_null(self) -> Part:
        return [("PUSH_NULL", 0)] if table.ITER_NEEDS_NULL else []

    def countdown(self) -> Part:
        return [
            self.gate(),
            self.attribute(_TICKS),
            *self.iterator_null(),
            ("FOR_ITER", "open"),
            *table.CLOSED,
            ("JUMP_FORWARD", "body"),
            (LABEL, "open"),
            *table.OPEN,
        ]

    def watch(self) -> Part:
        """Run the body in place under a tracer, without a call that the tracer or a debugger's user would see."""
        return [
            self.gate(),
            self.attribute(_WATCH),
            *self.iterator_null(),
            ("FOR_ITER", "watch_ended"),
            (table.JUMP_IF_FALSE, "unwatched"),
            *table.ITERATOR_DONE,
            self.gate(),
            self.attribute(_TRACED),
            ("JUMP_FORWARD", "count"),
            (LABEL, "watch_ended"),
            *table.OPEN,
            ("JUMP_FORWARD", "begin"),
            (LABEL, "unwatched"),
            *table.ITERATOR_DONE,
        ]

    def begin(self) -> Part:
        # The NOP: 3.13 looks a raising call's handler up one unit early, so no CALL may end or start a range.
        return [
            (LABEL, "begin"),
            *table.callee(self.gate(), self.attribute(_BEGIN)),
            self.gate(),
            *table.call(1),
            ("NOP", 0),
            (LABEL, "begun"),
            ("COPY", 1),
            (table.JUMP_IF_NONE, "declined"),
        ]

    def inner_function(self) -> Part:
        """[p] → [p, callable and NULL in the order of a call]."""
        free = self.shape.free
        cells: Part = [(table.LOAD_CELL, self.shape.first_cell + i) for i in range(free)]
        closure: Part = [*cells, ("BUILD_TUPLE", free)] if free else []
        null_first: Part = [] if table.NULL_LAST else [("PUSH_NULL", 0)]
        depth_of_p = 1 + len(null_first) + bool(free)
        made: Part
        if table.NULL_LAST:
            made = [("MAKE_FUNCTION", 0), (LABEL, "made"), *([("SET_FUNCTION_ATTRIBUTE", 8)] if free else [])]
        else:
            made = [("MAKE_FUNCTION", 8 if free else 0), (LABEL, "made")]
        kept: Part = []
        if self.shape.generator_like:
            depth = 3 + len(null_first)
            kept = [("COPY", 1), ("COPY", depth), ("STORE_ATTR", self.name + _FUNCTION)]
        null_last: Part = [("PUSH_NULL", 0)] if table.NULL_LAST else []
        code: Part = [("COPY", depth_of_p), self.attribute(_CODE)]
        return [*null_first, *closure, *code, (LABEL, "make"), *made, *kept, *null_last]

    def inner_call(self) -> Part:
        """Hand the arguments over: [p, callable, NULL] → [p, result]."""
        shape = self.shape
        if shape.star or shape.starstar:
            return self.inner_call_with_stars()
        total = shape.args + shape.keywords
        arguments: Part = [load for i in range(total) for load in table.take_local(i)]
        if not shape.keywords:
            return [*arguments, *table.call(total)]
        # CALL_FUNCTION_EX recurses in C on 3.11 and overflows there: keyword names instead.
        if table.NULL_LAST:
            return [*arguments, ("LOAD_CONST", self.const + 1), ("CALL_KW", total)]
        return [*arguments, ("KW_NAMES", self.const + 1), *table.call(total)]

    def inner_call_with_stars(self) -> Part:
        shape = self.shape
        named = shape.args + shape.keywords
        positional: Part
        if shape.star and not shape.args:
            positional = table.take_local(named)
        else:
            positional = [load for i in range(shape.args) for load in table.take_local(i)]
            positional.append(("BUILD_LIST", shape.args))
            if shape.star:
                positional += [*table.take_local(named), ("LIST_EXTEND", 1)]
            positional.append(table.TUPLE_FROM_LIST)
        keywords: Part = []
        for i in range(shape.keywords):
            keywords += [("LOAD_CONST", self.const + 2 + i), *table.take_local(shape.args + i)]
        keywords.append(("BUILD_MAP", shape.keywords))
        if shape.starstar:
            keywords += [*table.take_local(named + shape.star), ("DICT_UPDATE", 1)]
        return [*positional, *keywords, ("CALL_FUNCTION_EX", table.CALL_EX_FLAG)]

    def finish(self) -> Part:
        """[p, result] → return result; p stays beneath until finish is through."""
        return [
            *table.callee(self.gate(), self.attribute(_FINISH)),
            ("COPY", 4),
            ("COPY", 4),
            *table.call(2),
            ("POP_TOP", 0),
            ("NOP", 0),
            (LABEL, "tried"),
            ("SWAP", 2),
            ("POP_TOP", 0),
            ("RETURN_VALUE", 0),
        ]

    def not_made(self) -> Part:
        """Hold two references to the code for ever, where MAKE_FUNCTION gave one back that it did not have.

        `p.function = p.code; p.lost = gate.lost; gate.lost = p`: needs no memory and no call, and the cycle gate → p →
        code → gate is out of the garbage collector's sight, also when the interpreter ends.
        """
        if not table.MAKE_FUNCTION_OVERDRAWS:
            return []
        return [
            (LABEL, "not_made"),
            ("PUSH_EXC_INFO", 0),
            ("COPY", 3),
            self.attribute(_CODE),
            ("COPY", 4),
            ("STORE_ATTR", self.name + _FUNCTION),
            self.gate(),
            self.attribute(_LOST),
            ("COPY", 4),
            ("STORE_ATTR", self.name + _LOST),
            ("COPY", 3),
            self.gate(),
            ("STORE_ATTR", self.name + _LOST),
            ("JUMP_FORWARD", "unwind"),
        ]

    def unwind(self) -> Part:
        return [
            (LABEL, "except"),
            ("PUSH_EXC_INFO", 0),
            (LABEL, "unwind"),
            *table.callee(self.gate(), self.attribute(_UNWIND)),
            ("COPY", 5),
            ("COPY", 4),
            *table.call(2),
            ("POP_TOP", 0),
            ("NOP", 0),
            (LABEL, "unwound"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 0),
            (LABEL, "unwind_failed"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 0),
        ]

    def begin_failed(self) -> Part:
        return [
            (LABEL, "begin_except"),
            ("PUSH_EXC_INFO", 0),
            self.gate(),
            self.attribute(_CAUGHT),
            ("CHECK_EXC_MATCH", 0),
            (table.JUMP_IF_FALSE, "begin_reraise"),
            ("POP_TOP", 0),
            ("POP_EXCEPT", 0),
            # Count the call without a Python call and without memory: there is none left.
            self.gate(),
            self.attribute(_MISSED),
            (LABEL, "count"),
            *self.iterator_null(),
            ("FOR_ITER", "counted"),
            *table.CLOSED,
            ("JUMP_FORWARD", "body"),
            (LABEL, "counted"),
            *table.OPEN,
            ("JUMP_FORWARD", "body"),
            (LABEL, "begin_reraise"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 0),
        ]


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
        entry("begin", "begun", "begin_except", 0),
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
