"""Take the gate off a function's code again: what `splice` was given, made from what it returned.

So that nobody has to keep the original of each function: it would take more memory than the gate.
"""

from __future__ import annotations

from autoprof.rewrite.assemble import build_exception_table, parse_exception_table
from autoprof.rewrite.prologue import GATE_NAMES, _Shape
from autoprof.rewrite.splice import _exception_entries, _locations, _prologue
from autoprof.rewrite.table import OPCODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType


def unsplice(code: CodeType, gate: object, stacksize: int) -> CodeType:
    """Return the code without the gate, equal to the one that it was put in front of.

    For plain functions without a stopwatch: the bodies of others are changed as well.

    Args:
        stacksize: co_stacksize of the original, which the gate may have raised.

    Raises:
        ValueError: it does not begin with that gate's prologue.
    """
    shape = _Shape(code)
    if gate not in code.co_consts or shape.generator_like:
        raise ValueError(f"{code.co_qualname} can't be given its original code back")
    const = code.co_consts.index(gate)
    name = len(code.co_names) - len(GATE_NAMES)
    prologue, labels = _prologue(shape, const, name)
    raw = code.co_code
    units = len(prologue) >> 1
    prefix = _prefix_units(raw, code)
    split = 2 * prefix
    if raw[split : split + len(prologue)] != prologue:
        raise ValueError(f"{code.co_qualname} does not begin with the prologue of its gate")
    ours = len(_exception_entries(labels, prefix))
    body = parse_exception_table(code.co_exceptiontable)[ours:]
    return code.replace(
        co_code=raw[:split] + raw[split + len(prologue) :],
        co_consts=code.co_consts[:const],
        co_names=code.co_names[:name],
        co_linetable=code.co_linetable[len(_locations(units, shape)) :],
        co_exceptiontable=build_exception_table(
            [(start - units, length, target - units, depth) for start, length, target, depth in body]
        ),
        co_stacksize=stacksize,
    )


def _prefix_units(raw: bytes, code: CodeType) -> int:
    units = 0
    if code.co_freevars:
        while raw[2 * units] == OPCODES["EXTENDED_ARG"]:
            units += 1
        units += 1
    return units
