"""The tracer's hook: what runs at every call and return of the thread that is followed, written for speed."""

from __future__ import annotations

from autoprof import clock
from autoprof.callgraph import Figures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Protocol

    from autoprof.callgraph import Function

    class Listener(Protocol):
        """What the hook asks for what it does not know yet, and tells what it sees; called now and then only."""

        deadline_ns: int

        def root_edge(self, frame: FrameType) -> Edge | None: ...

        def edge(self, edges: dict[int, Edge], frame: FrameType) -> Edge: ...

        def c_edge(self, edges: dict[int, Edge], called: Any) -> Edge: ...

        def paused(self) -> None: ...

        def overdue(self) -> None: ...

        def failed(self, error: BaseException) -> None: ...


PYTHON, C, CLOCK, HIDDEN, TRANSPARENT = range(5)
"""Kinds of functions: a clock is in C too; hidden are ours, transparent our wrappers, which stand for what is inside.

Who looks at a clock sees our time pass like any other: a loop that waits for a moment takes as long with us as without.
So what the hook takes for the calls of a clock is not taken off.
"""


class Node(Figures):
    """A function as the hook counts it; `calls` and `self_ns` are those of the edges to it.

    Attributes:
        level: how many of its calls are open.
        recursive: calls that began while another was open.
        edges: id of what is called → the edge to it; only ids of what some node keeps alive.
        start: the instruction at which its frame begins, where a frame can be resumed; else 0.
        kept: what the keys' ids belong to, kept alive so that no other object gets one.
    """

    __slots__ = ("edges", "function", "kept", "kind", "level", "recursive", "start")

    def __init__(self, function: Function, kept: Any, kind: int = PYTHON, start: int = 0) -> None:
        super().__init__()
        self.level = self.recursive = 0
        self.edges: dict[int, Edge] = {}
        self.function = function
        self.kept = [kept]
        self.kind = kind
        self.start = start


class Edge(Figures):
    """The calls of one function by another; `level` and `recursive` as in the node, the rest is the callee's."""

    __slots__ = ("edges", "kind", "level", "node", "recursive", "start")

    def __init__(self, callee: Node) -> None:
        super().__init__()
        self.level = self.recursive = 0
        self.node = callee
        self.edges, self.kind, self.start = callee.edges, callee.kind, callee.start


class Hook:
    """Counts and times; `profile` is what `sys.setprofile` takes.

    Attributes:
        stack: what to return to when the open calls end, innermost last; empty while nothing is measured.
        top: id of the frame that runs; a frame counts only if it was called by this one. No reference: an interrupt can
            leave it here, and all that its frame knows.
        edges: of the function that runs; None while ours does.
        lost_ns: what was ours so far: all points in time are taken less this.
        spent_ns: time in what the running function called.
    """

    __slots__ = (
        "_biases_ns", "_listener", "_now", "begun_ns", "edge", "edges", "lost_ns", "spent_ns", "stack", "top",
    )  # fmt: skip

    def __init__(self, listener: Listener, biases_ns: tuple[int, int]) -> None:
        """Make it.

        Args:
            biases_ns: what an event of a Python and of a C function costs before and after the hook looks at the clock.
        """
        self._listener = listener
        self._biases_ns = biases_ns
        self._now = clock.monotonic_ns
        self.stack: list[Any] = []
        self.top = 0
        self.edge: Any = None
        self.edges: dict[int, Edge] | None = None
        self.lost_ns = self.begun_ns = self.spent_ns = 0

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """Be told of one call or return by the interpreter."""
        entered_ns = self._now()
        listener = self._listener
        kind = PYTHON
        try:
            called = None
            if entered_ns > listener.deadline_ns:
                listener.overdue()
            elif event == "call":
                if self.edges is not None and id(frame.f_back) == self.top:
                    called = self.edges.get(id(frame.f_code)) or listener.edge(self.edges, frame)
                elif not self.stack:
                    called = listener.root_edge(frame)
            elif id(frame) != self.top:
                pass
            elif event == "c_call":
                if PYTHON < self.edge.kind < HIDDEN:
                    self.leave(entered_ns)  # its end was never told
                if not self.edge.kind and self.edges is not None:
                    called = self.edges.get(id(arg)) or listener.c_edge(self.edges, arg)
                    kind = called.kind
            elif event == "return":
                if PYTHON < self.edge.kind < HIDDEN:
                    self.leave(entered_ns)
                self.leave(entered_ns)
                if not self.stack:
                    listener.paused()
            elif PYTHON < self.edge.kind < HIDDEN:
                kind = self.edge.kind
                self.leave(entered_ns)
            if called is not None:
                self.enter(frame, called, entered_ns)
        except BaseException as error:
            listener.failed(error)
        if kind != CLOCK:
            self.lost_ns += self._now() - entered_ns + self._biases_ns[kind]

    def enter(self, frame: FrameType, called: Edge, at_ns: int) -> None:
        """Open a call; a frame that is resumed is no new call."""
        self.stack.append((self.top, self.edge, self.edges, self.begun_ns, self.spent_ns))
        self.top, self.edge = id(frame), called
        self.begun_ns = at_ns - self.lost_ns
        self.spent_ns = 0
        if called.kind >= HIDDEN:
            if called.kind == HIDDEN:
                self.edges = None
            return
        node = called.node
        self.edges = called.edges
        if not called.start or frame.f_lasti <= called.start:
            called.calls += 1
            if node.level:
                node.recursive += 1
                called.recursive += bool(called.level)
        called.level += 1
        node.level += 1

    def leave(self, at_ns: int) -> None:
        """Close the innermost call."""
        edge = self.edge
        span_ns = at_ns - self.lost_ns - self.begun_ns
        if edge.kind >= HIDDEN:
            self.lost_ns += span_ns - self.spent_ns
            span_ns = self.spent_ns
        else:
            node = edge.node
            edge.self_ns += span_ns - self.spent_ns
            edge.level = level = edge.level - 1
            if not level:
                edge.cumulative_ns += span_ns
            node.level = level = node.level - 1
            if not level:
                node.cumulative_ns += span_ns
        self.top, self.edge, self.edges, self.begun_ns, self.spent_ns = self.stack.pop()
        self.spent_ns += span_ns

    def close(self, at_ns: int) -> None:
        """Close all calls that are open."""
        while self.stack and self.edge is not None:
            self.leave(at_ns)
        self.stack.clear()  # an interrupt can strike between the stack and the edge
