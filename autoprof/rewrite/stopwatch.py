"""Time every call of a function inside its own frame: no call more, no frame more, no deeper recursion.

The prologue leaves the time of entry at the bottom of the body's stack; in front of every return, and in a handler
behind the body for exceptions, the clock is read again. The clock is an iterator whose C code calls
`time.perf_counter`: FOR_ITER reads it, and neither a tracer nor a profiler sees a call. Only a call that took longer
than the gate's threshold is told to Python code.

What it expects of the gate besides what `splice` does: `clock` (yields seconds; exhausted = time nothing), `threshold`
and `total` (seconds), `unseen` (an endless iterator that counts slow calls under a tracer), and
`slow(gate, started, elapsed, result)`, `slow_raised(gate, started, elapsed, exception)`.
"""

from __future__ import annotations

from autoprof.rewrite import table
from autoprof.rewrite.assemble import LABEL, ExceptionEntry, assemble, blank_locations
from autoprof.rewrite.epilogue import fill_gaps
from autoprof.rewrite.relocate import copy, move_entries, overlay, scan, settle, stretch_locations
from autoprof.rewrite.table import OPCODES, Instruction

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType

Part = list[Instruction]
NAMES = ("clock", "threshold", "total", "slow", "slow_raised", "unseen")
_CLOCK, _THRESHOLD, _TOTAL, _SLOW, _SLOW_RAISED, _UNSEEN = range(6)
STACK_NEED = 12
_RETURNS = frozenset(OPCODES[name] for name in ("RETURN_VALUE", "RETURN_CONST") if name in OPCODES)
_RETURN_CONST = OPCODES.get("RETURN_CONST", -1)
_NULL: Part = [("PUSH_NULL", 0)] if table.ITER_NEEDS_NULL else []


class Stopwatch:
    """Writes the parts for a gate at `const`, None at `none`, and names: ours from `name` on, `watch` and `caught`."""

    __slots__ = ("caught", "const", "name", "none", "watch")

    def __init__(self, const: int, none: int, name: int, watch: int, caught: int) -> None:
        self.const, self.none = const, none
        self.name, self.watch, self.caught = name, watch, caught

    def _attribute(self, which: int) -> Part:
        return [("LOAD_CONST", self.const), ("LOAD_ATTR", (self.name + which) << table.ATTR_SHIFT)]

    def start(self) -> Part:
        """[] → [time of entry, or None].

        At the recursion limit of 3.11 the clock's C code is a level too many: the call is then not timed.
        """
        return [
            (LABEL, "starting"),
            *self._attribute(_CLOCK),
            *_NULL,
            ("FOR_ITER", "stopped"),
            (LABEL, "read"),
            *table.TAKE_VALUE,
            ("JUMP_FORWARD", "started"),
            (LABEL, "unread"),
            ("PUSH_EXC_INFO", 0),
            ("LOAD_CONST", self.const),
            ("LOAD_ATTR", self.caught << table.ATTR_SHIFT),
            ("CHECK_EXC_MATCH", 0),
            (table.JUMP_IF_FALSE, "unread_reraise"),
            ("POP_TOP", 0),
            ("POP_EXCEPT", 0),
            ("JUMP_FORWARD", "untimed"),
            (LABEL, "unread_reraise"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 0),
            (LABEL, "stopped"),
            *table.OPEN,
            (LABEL, "untimed"),
            ("LOAD_CONST", self.none),
            (LABEL, "started"),
        ]

    def _lap(self, depth: int, which: int) -> Part:
        """Read the clock and tell a slow call; leaves the stack as it is.

        Args:
            depth: of the time of entry, 1 = on top; the result or exception is on top.
            which: what to call, `_SLOW` or `_SLOW_RAISED`.
        """
        return [
            ("COPY", depth),
            (table.JUMP_IF_NONE, "through"),
            *self._attribute(_CLOCK),
            *_NULL,
            ("FOR_ITER", "paused"),
            *table.TAKE_VALUE,
            ("COPY", depth + 1),
            table.SUBTRACT,
            ("COPY", 1),
            *self._attribute(_THRESHOLD),
            table.AT_LEAST,
            (table.JUMP_IF_FALSE, "fast"),
            *self._watched(),
            *self._tell(depth, which),
            (LABEL, "fast"),
            *self._attribute(_TOTAL),
            table.ADD,
            ("LOAD_CONST", self.const),
            ("STORE_ATTR", self.name + _TOTAL),
            ("JUMP_FORWARD", "through"),
            (LABEL, "paused"),
            *table.OPEN,
            (LABEL, "through"),
        ]

    def _watched(self) -> Part:
        """Under a tracer count the slow call and tell nobody: the tracer would see the call."""
        return [
            ("LOAD_CONST", self.const),
            ("LOAD_ATTR", self.watch << table.ATTR_SHIFT),
            *_NULL,
            ("FOR_ITER", "watch_ended"),
            (table.JUMP_IF_FALSE, "unwatched"),
            *table.ITERATOR_DONE,
            *self._attribute(_UNSEEN),
            *_NULL,
            ("FOR_ITER", "counted"),
            ("POP_TOP", 0),
            *table.ITERATOR_DONE,
            ("JUMP_FORWARD", "fast"),
            (LABEL, "counted"),
            *table.OPEN,
            ("JUMP_FORWARD", "fast"),
            (LABEL, "watch_ended"),
            *table.OPEN,
            ("JUMP_FORWARD", "tell"),
            (LABEL, "unwatched"),
            *table.ITERATOR_DONE,
        ]

    def _tell(self, depth: int, which: int) -> Part:
        """Call `slow` or `slow_raised`; at the recursion limit, or without memory, the slow call stays untold."""
        called = 2  # the callable and its NULL, above elapsed
        return [
            (LABEL, "tell"),
            ("NOP", 0),
            *([] if table.NULL_LAST else [("PUSH_NULL", 0)]),
            *self._attribute(which),
            *([("PUSH_NULL", 0)] if table.NULL_LAST else []),
            ("LOAD_CONST", self.const),
            ("COPY", depth + called + 2),
            ("COPY", called + 3),
            ("COPY", called + 5),
            *table.call(4),
            ("POP_TOP", 0),
            ("NOP", 0),
            (LABEL, "told"),
            ("JUMP_FORWARD", "fast"),
            (LABEL, "untold"),
            ("PUSH_EXC_INFO", 0),
            ("LOAD_CONST", self.const),
            ("LOAD_ATTR", self.caught << table.ATTR_SHIFT),
            ("CHECK_EXC_MATCH", 0),
            (table.JUMP_IF_FALSE, "untold_reraise"),
            ("POP_TOP", 0),
            ("POP_EXCEPT", 0),
            ("JUMP_FORWARD", "fast"),
            (LABEL, "untold_reraise"),
            ("SWAP", 2),
            ("POP_EXCEPT", 0),
            ("RERAISE", 0),
        ]

    def before_return(self) -> Part:
        """[entry, result] → [result]."""
        return [*self._lap(2, _SLOW), ("SWAP", 2), ("POP_TOP", 0)]

    def before_return_const(self) -> Part:
        """[entry, result] → []."""
        return [*self._lap(2, _SLOW), ("POP_TOP", 0), ("POP_TOP", 0)]

    def handler(self) -> Part:
        """[entry, last instruction, exception] → the same exception again."""
        end: Part = [("SWAP", 2), ("POP_EXCEPT", 0), ("RERAISE", 1)]
        return [
            ("PUSH_EXC_INFO", 0),
            ("NOP", 0),
            (LABEL, "telling"),
            ("NOP", 0),
            *self._lap(4, _SLOW_RAISED),
            ("NOP", 0),
            (LABEL, "lapped"),
            *end,
            (LABEL, "failed"),
            *end,
        ]


Piece = tuple[bytes, dict[str, int]]
"""Instructions, and the unit of each label in them."""

_pieces: dict[tuple[int, int, int, int, str], Piece] = {}
_PIECES_KEPT = 2048


def _piece(watch: Stopwatch, what: str) -> Piece:
    """Assemble a part of the stopwatch, once for all functions with as many constants and names."""
    key = (watch.const, watch.none, watch.name, watch.watch, what)
    piece = _pieces.get(key)
    if piece is None:
        if len(_pieces) >= _PIECES_KEPT:
            _pieces.clear()
        code, labels, _ = assemble(getattr(watch, what)())
        piece = _pieces[key] = (code, labels)
    return piece


class TimedBody:
    """A body with the stopwatch in it; all places count from its own first unit.

    Attributes:
        raw: the instructions, the handler behind them included.
        entries: the exception table.
        locations: the location table.
    """

    __slots__ = ("entries", "locations", "raw")

    def __init__(self, raw: bytes, entries: list[ExceptionEntry], locations: bytes) -> None:
        self.raw, self.entries, self.locations = raw, entries, locations


def time_body(code: CodeType, entries: list[ExceptionEntry], watch: Stopwatch, resume: int) -> TimedBody:
    """Return a function's body with the stopwatch in it.

    Args:
        entries: the body's exception table.
        resume: unit of the body's first RESUME: what is before it can't be watched.
    """
    raw = code.co_code
    returns, jumps = scan(raw, _RETURNS)
    pieces: dict[int, bytes] = {}
    tellings: list[tuple[int, ExceptionEntry]] = []
    for unit, opcode, argument in returns:
        constant = opcode == _RETURN_CONST
        piece, at = _piece(watch, "before_return_const" if constant else "before_return")
        load = assemble([("LOAD_CONST", argument)])[0] if constant else b""
        pieces[unit] = load + piece
        offset = len(load) >> 1
        length = at["told"] - at["tell"]
        tellings.append((unit, (offset + at["tell"], length, offset + at["untold"], 3 << 1)))
    insertions = {unit: len(piece) >> 1 for unit, piece in pieces.items()}
    places, changed = settle(insertions, jumps)
    body = copy(raw, pieces, insertions, changed)
    end = len(body) >> 1
    handler, labels = _piece(watch, "handler")
    moved = fill_gaps(move_entries(entries, places, 1), places[resume], end, end, depth=1)
    start, lapped, failed = (end + labels[each] for each in ("telling", "lapped", "failed"))
    moved.append((start, lapped - start, failed, 3 << 1))
    own = [
        (places[unit] + begins, length, places[unit] + target, depth)
        for unit, (begins, length, target, depth) in tellings
    ]
    own.append((end + labels["tell"], labels["told"] - labels["tell"], end + labels["untold"], 5 << 1))
    locations = stretch_locations(code.co_linetable, insertions) + blank_locations(len(handler) >> 1)
    return TimedBody(body + handler, overlay(moved, own), locations)
