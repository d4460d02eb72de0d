"""The prologue, instruction by instruction: what `splice` puts in front of a function's body.

Every line that looks superfluous keeps an interpreter from crashing; the tests in `tests/attacks` name the crash.
"""

from __future__ import annotations

from autoprof.rewrite import table
from autoprof.rewrite.assemble import LABEL
from autoprof.rewrite.stopwatch import Stopwatch
from autoprof.rewrite.table import Instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

CO_OPTIMIZED, CO_NEWLOCALS, CO_VARARGS, CO_VARKEYWORDS = 0x1, 0x2, 0x4, 0x8
CO_GENERATOR_LIKE = 0x20 | 0x80 | 0x200
KINDS = CO_VARARGS | CO_VARKEYWORDS | CO_GENERATOR_LIKE
"""The code flags that a prologue depends on."""
GATE_NAMES = (
    "ticks",
    "begin",
    "finish",
    "unwind",
    "caught",
    "code",
    "function",
    "raised",
    "missed",
    "lost",
    "watch",
    "traced",
    "park",
    "runs",
)
_TICKS, _BEGIN, _FINISH, _UNWIND, _CAUGHT, _CODE, _FUNCTION = range(7)
_RAISED, _MISSED, _LOST, _WATCH, _TRACED, _PARK, _RUNS = range(7, len(GATE_NAMES))
_STACK_LEAST, _STACK_BESIDES = 8, 4
"""What the deepest places of a prologue need, and a word more: all that is asked for beyond that spreads the frames of
every call over more lines of the processor's cache (a fifth of the misses that closed gates make in a web service)."""

WATCH = _WATCH

Part = list[Instruction]


def first_free_cell(code: CodeType) -> int:
    """Return where the free variables begin among the local ones; 0 without any."""
    if not code.co_freevars:
        return 0
    local_names = code.co_varnames
    return code.co_nlocals + sum([name not in local_names for name in code.co_cellvars])


class _Shape:
    """The signature of a code object as far as the prologue depends on it."""

    __slots__ = ("args", "first_cell", "free", "generator_like", "keywords", "star", "starstar", "timed")

    def __init__(self, code: CodeType, timed: bool = False) -> None:
        self.timed = timed
        flags = code.co_flags
        self.args = code.co_argcount
        self.keywords = code.co_kwonlyargcount
        self.star = bool(flags & CO_VARARGS)
        self.starstar = bool(flags & CO_VARKEYWORDS)
        self.generator_like = bool(flags & CO_GENERATOR_LIKE)
        self.free = len(code.co_freevars)
        self.first_cell = first_free_cell(code)

    def key(self) -> tuple[int, ...]:
        return (
            self.args,
            self.keywords,
            self.star,
            self.starstar,
            self.generator_like,
            self.free,
            self.first_cell,
            self.timed,
        )

    def keyword_constants(self) -> int:
        """Return how many constants the keyword-only arguments take."""
        if not self.keywords:
            return 0
        return 1 if self.needs_keyword_names() else 1 + self.keywords

    def needs_keyword_names(self) -> bool:
        return bool(self.keywords) and not self.star and not self.starstar

    def stack_need(self) -> int:
        handed_over = max(self.free, self.args + self.keywords + 1)
        if self.star or self.starstar:
            handed_over = max(handed_over, 2 * self.keywords + 1)
        return max(_STACK_LEAST, _STACK_BESIDES + handed_over)


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
            *self.stepped(),
            (LABEL, "body"),
            *(self.stopwatch().start() if self.shape.timed else ()),
        ]

    def stopwatch(self) -> Stopwatch:
        none = self.const + 1 + self.shape.keyword_constants()
        return Stopwatch(
            self.const, none, self.name + len(GATE_NAMES), self.name + _WATCH, self.name + _CAUGHT
        )

    def iterator_null(self) -> Part:
        return [("PUSH_NULL", 0)] if table.ITER_NEEDS_NULL else []

    def countdown(self) -> Part:
        if not self.shape.timed:
            return [
                ("LOAD_CONST", self.const + 1 + self.shape.keyword_constants()),
                *self.iterator_null(),
                ("FOR_ITER", "spent"),
                (table.JUMP_IF_NOT_NONE, "stepped"),
                *table.ITERATOR_DONE,
                (LABEL, "asking"),
                self.gate(),
                self.attribute(_RUNS),
                *self.iterator_null(),
                ("FOR_ITER", "open"),
                *table.CLOSED,
                ("JUMP_FORWARD", "body"),
                (LABEL, "open"),
                *table.OPEN,
                # `runs` has wound the countdown once more; and who finds it open while nobody claims it moves it on.
                self.gate(),
                self.attribute(_PARK),
                *self.iterator_null(),
                ("FOR_ITER", "not_parked"),
                *table.CLOSED,
                ("JUMP_FORWARD", "parked"),
                (LABEL, "not_parked"),
                *table.OPEN,
                (LABEL, "parked"),
            ]
        return [
            self.gate(),
            self.attribute(_TICKS),
            *self.iterator_null(),
            ("FOR_ITER", "open"),
            *self.untimed(),
            ("JUMP_FORWARD", "body"),
            (LABEL, "open"),
            *table.OPEN,
            (LABEL, "asking"),
        ]

    def stepped(self) -> Part:
        """Take a countdown off the stack that has gone on by one."""
        if self.shape.timed:
            return []
        return [("JUMP_FORWARD", "body"), (LABEL, "stepped"), *table.ITERATOR_DONE]

    def spent(self) -> Part:
        """Take a countdown off the stack that has come to its end."""
        if self.shape.timed:
            return []
        return [("JUMP_FORWARD", "missed"), (LABEL, "spent"), *table.OPEN, (LABEL, "missed")]

    def untimed(self) -> Part:
        """Keep a tick that is None: it stands for the time of entry, and the clock is not asked."""
        return [*table.TAKE_VALUE, ("COPY", 1), (table.JUMP_IF_NONE, "started"), ("POP_TOP", 0)]

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
            *self.spent(),
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
