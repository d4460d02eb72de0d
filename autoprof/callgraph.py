"""Who called whom, how often and for how long: what the tracer finds and the views show."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Function: TypeAlias = tuple[str, str, int, str]
    """(target `module:qualname`, file, first line, name); of a C function the file is "" and the line 0."""

MAX_FUNCTIONS = 20_000
"""A graph that is summed over calls stays bounded: what comes later is `OTHER`."""

OTHER: Function = ("(other functions)", "", 0, "(other functions)")


class Figures:
    """Numbers of a function, or of its calls by one caller.

    Attributes:
        calls: all of them; a generator or coroutine counts once per call of the function, not per resumption.
        primitive: those that were not made from inside another call of the same function (as in `pstats`).
        self_ns: time in the function itself.
        cumulative_ns: time in it and in what it called; recursion counts once.
    """

    __slots__ = ("calls", "cumulative_ns", "primitive", "self_ns")

    def __init__(self, calls: int = 0, primitive: int = 0, self_ns: int = 0, cumulative_ns: int = 0) -> None:
        self.calls = calls
        self.primitive = primitive
        self.self_ns = self_ns
        self.cumulative_ns = cumulative_ns

    def add(self, other: Figures) -> None:
        """Add another's numbers."""
        self.calls += other.calls
        self.primitive += other.primitive
        self.self_ns += other.self_ns
        self.cumulative_ns += other.cumulative_ns

    def __repr__(self) -> str:
        return f"Figures({self.calls}, {self.primitive}, {self.self_ns}, {self.cumulative_ns})"


class Graph:
    """The calls made inside one measured call, or the sum over several.

    Attributes:
        functions: function → its figures, the measured one among them.
        edges: (caller, callee) → the figures of these calls.
        root: the measured function; None while there is none.
        measured: how many measured calls it holds.
        cut: how many of them were followed only to their `duration`, or lost their hook to another profiler.
    """

    __slots__ = ("cut", "edges", "functions", "measured", "root")

    def __init__(self) -> None:
        self.functions: dict[Function, Figures] = {}
        self.edges: dict[tuple[Function, Function], Figures] = {}
        self.root: Function | None = None
        self.measured = 0
        self.cut = 0

    def function(self, function: Function) -> Function:
        """Return the key under which a function is counted, made when it is new."""
        if function not in self.functions:
            if len(self.functions) >= MAX_FUNCTIONS:
                function = OTHER
            if function not in self.functions:
                self.functions[function] = Figures()
        return function

    def count(self, function: Function, figures: Figures) -> None:
        """Add to a function's figures."""
        self.functions[self.function(function)].add(figures)

    def count_edge(self, caller: Function, callee: Function, figures: Figures) -> None:
        """Add to the figures of the calls of one function by another."""
        edge = (self.function(caller), self.function(callee))
        known = self.edges.get(edge)
        if known is None:
            known = self.edges[edge] = Figures()
        known.add(figures)

    def add(self, other: Graph) -> None:
        """Add another graph."""
        self.root = self.root or other.root
        for function, figures in other.functions.items():
            self.count(function, figures)
        for (caller, callee), figures in other.edges.items():
            self.count_edge(caller, callee, figures)
        self.measured += other.measured
        self.cut += other.cut

    def targets_inside(self) -> dict[str, int]:
        """Return the calls that were made inside, by target: all but the measured call itself."""
        found: dict[str, int] = {}
        for (_, function), figures in self.edges.items():
            if figures.calls:
                found[function[0]] = found.get(function[0], 0) + figures.calls
        return found

    @property
    def total_ns(self) -> int:
        """All time that was measured."""
        return sum(figures.self_ns for figures in self.functions.values())
