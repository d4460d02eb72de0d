"""The deterministic tracer: every call inside one profiled call, by caller and callee, with counts and times.

A hook by `sys.setprofile` on the profiled call's own thread. Measured on CPython 3.11.7 / 3.12.1 / 3.13.0, two noisy
cores, a loop over an empty function (36 ns): what a call of the measured thread takes more, and how much slower calls
become in another busy thread:

    way                     added to a call           another thread
    sys.setprofile, this    1.6 / 1.9 / 1.8 us        1.0 / 2.5 / 2.6 times
    sys.monitoring          - / 1.3 / 1.3 us          - / 10 / 3.5 times
    cProfile                0.2 / 0.1 / 0.25 us       1.0 / 4.1 / 4.8 times; from 3.12 on all threads in one
    yappi                   0.2 / 0.2 / 0.4 us        1.0 / 90 / 44 times, and errors from 3.12 on

The callbacks of `sys.monitoring` run in all threads, hence the slower others. What the hook takes is taken off all
times; but on 3.11 the interpreter itself runs Python code two to three times slower under any hook, cProfile's too.

A frame counts only if its caller does (`f_back`): other greenlets, tasks that run while the profiled coroutine is
suspended, and whatever our own functions call are left out. A coroutine or generator that is resumed in another thread
than it was made in is not followed there. The hook is a level of recursion on top of the application's.
"""

from __future__ import annotations

import time
from sys import getprofile, modules, setprofile
from time import perf_counter_ns
from types import ModuleType
from weakref import ref

from autoprof import arbiter, clock, guard, naming
from autoprof.callgraph import OTHER, Graph
from autoprof.flight import has_ended
from autoprof.frames import frame_of
from autoprof.primitives import get_ident
from autoprof.rewrite.epilogue import first_resume
from autoprof.tracer_hook import CLOCK, HIDDEN, PYTHON, TRANSPARENT, C, Edge, Hook, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.flight import Flight

MAX_NODES = 20_000
_DEAD_AFTER_NS = 1_000_000_000
_CLOCKS = frozenset(
    each for clock in ("monotonic", "perf_counter", "time") for each in (clock, f"{clock}_ns")
)
_GENERATOR_LIKE = 0x20 | 0x80 | 0x200


class Trace:
    """Follows one call. `start` on its thread; `stop` on any.

    Attributes:
        flight: the call, weakly: an interrupt can leave one that nobody ends, and it must be known as such.
        hook: what `sys.getprofile()` returns while it follows; None when it does not.
        limit_ns: the point in time at which measuring stops, the call goes on.
        deadline_ns: the same, and 0 once the hook has to take itself off at its next event.
        cut: the call was not followed to its end.
        lost_ns: what the hook itself has taken, once it is stopped.
    """

    def __init__(self, flight: Flight, limit_ns: int) -> None:
        self.code = flight.code
        self.ident = get_ident()
        self.resumable = flight.gate.generator_like
        self.deadline_ns = self.limit_ns = clock.monotonic_ns() + limit_ns
        self._dead_ns = 0
        self.nodes: dict[int, Node] = {}
        self.c_nodes: dict[tuple[int, str], Node] = {}
        self.methods: dict[tuple[int, str], Node] = {}
        self.others = Node(OTHER, None)
        self.root: Edge | None = None
        self.cut = False
        self.lost_ns = 0
        self.result: Graph | None = None
        self.hook: Any = None
        self._counter: Hook | None = None
        self.flight: Callable[[], Flight | None] = ref(
            flight, self._lost
        )  # last, since an interrupt may strike here

    @property
    def measuring(self) -> bool:
        """Whether the profiled call runs right now, rather than waits."""
        return self._counter is not None and bool(self._counter.stack)

    @property
    def ended(self) -> bool:
        """Whether nobody will stop it: an interrupt has struck, or the interpreter has taken the hook off this thread.

        A coroutine that is no more may just be on its way to be stopped by another thread.
        """
        flight = self.flight()
        if flight is None:
            return True
        if self.resumable:
            if not has_ended(flight):
                return False
            self._dead_ns = self._dead_ns or clock.monotonic_ns()
            return clock.monotonic_ns() - self._dead_ns > _DEAD_AFTER_NS
        return not flight.done and get_ident() == self.ident and getprofile() is not self.hook

    def start(self) -> bool:
        """Put the hook on this thread; False when another tool is at work."""
        if not arbiter.acquire(self):
            self.flight = _over
            return False
        try:
            self._counter = Hook(self, _biases_ns())
            self.hook = self._counter.profile
            setprofile(self.hook)
        except BaseException:
            self.detach()
            arbiter.release(self)
            raise
        return True

    def stop(self) -> Graph:
        """End it; return what was measured. A second time returns the same."""
        if self.result is None:
            if self.measuring and self.hook is not None and getprofile() is not self.hook:
                self.cut = True  # another profiler has taken its place
            self.detach()
            arbiter.release(self)
            self._close(min(clock.monotonic_ns(), self.limit_ns))
            self.lost_ns = self._counter.lost_ns if self._counter is not None else 0
            self.result = graph_of(self)
            self.nodes.clear()
            self.c_nodes.clear()
            self.methods.clear()
            self.root = self._counter = None
            self.flight = _over
        return self.result

    def detach(self) -> None:
        """Take the hook off this thread if it is there; elsewhere it takes itself off at its next event."""
        self.deadline_ns = 0
        if arbiter.take_off(self.hook):
            self.hook = None  # it holds this object

    def abandon(self) -> None:
        """Take the hook off, here or at its next event, and forget what was measured."""
        self.detach()
        self.result = Graph()
        self._counter = None  # it holds frames

    def _lost(self, _: object) -> None:
        """Let go of a call that nobody will end: an interrupt has struck where it begins or ends."""
        arbiter.let_go(self._end)

    def _end(self) -> None:
        self.abandon()
        arbiter.release(self)

    def _close(self, at_ns: int) -> None:
        if self._counter is not None:
            self._counter.close(at_ns)

    def paused(self) -> None:
        """Notice that the profiled call is not running any more: it has ended, unless it can be resumed."""
        if not self.resumable:
            self.detach()

    def failed(self, error: BaseException) -> None:
        """End measuring after a failure of ours, or an interrupt that met the hook and goes on."""
        self.cut = True
        self.detach()
        self._close(clock.monotonic_ns())
        if not isinstance(error, Exception):
            raise error
        guard.report("tracer", error)

    def overdue(self) -> None:
        """End measuring at the limit, or because somebody else has ended it."""
        if self.deadline_ns:
            self.cut = True
            self._close(self.limit_ns)
        self.detach()

    def root_edge(self, frame: FrameType) -> Edge | None:
        """Return the edge of the profiled call itself when a frame is its own; None for any other frame."""
        if frame.f_code is not self.code:
            return None
        flight = self.flight()
        if flight is None:
            return None
        if self.resumable:
            living = flight.living() if flight.living is not None else None
            if living is None or frame_of(living) is not frame:
                return None
        elif self.root is not None or (flight.caller is not None and frame.f_back is not flight.caller):
            return None
        if self.root is None:
            self.root = Edge(self._node(frame))
        return self.root

    def edge(self, edges: dict[int, Edge], frame: FrameType) -> Edge:
        """Return the edge to a Python function that is called for the first time from one place."""
        node = self._node(frame)
        edge = edges.get(id(node))
        if edge is None:
            edge = edges[id(node)] = Edge(node)
        if node is not self.others:
            edges[id(frame.f_code)] = edge
        return edge

    def c_edge(self, edges: dict[int, Edge], called: Any) -> Edge:
        """Return the edge to a C function; bound methods are new objects at each call, so all of theirs come here."""
        node = self.methods.get((id(type(called.__self__)), called.__name__)) or self._c_node(called)
        edge = edges.get(id(node))
        if edge is None:
            edge = edges[id(node)] = Edge(node)
        if type(called.__self__) is ModuleType and node is not self.others:
            # Functions of a module live on: from now on their identity is enough.
            if id(called) not in self.nodes:
                self.nodes[id(called)] = node
                node.kept.append(called)
            edges[id(called)] = edge
        return edge

    def _node(self, frame: FrameType) -> Node:
        code = frame.f_code
        known = self.nodes.get(id(code))
        if known is not None:
            return known
        if len(self.nodes) >= MAX_NODES:
            return self.others
        kind = PYTHON
        if naming.is_ours(code):
            kind = TRANSPARENT if naming.is_wrapper(code) else HIDDEN
        start = 0
        if code.co_flags & _GENERATOR_LIKE:
            start = 2 * (first_resume(code.co_code) or 0)
        made = self.nodes[id(code)] = Node(naming.python_function(frame), code, kind, start)
        return made

    def _c_node(self, called: Any) -> Node:
        """Return a C function's node: methods by the class that has them, whatever object they are bound to."""
        home, name = naming.home_of(called), called.__name__
        known = self.c_nodes.get((id(home), name))
        if known is not None:
            return known
        if len(self.c_nodes) >= MAX_NODES:
            return self.others
        definer = naming.definer(home, name)
        if name == "start" and definer is modules.get("_tracemalloc"):
            # The application is about to look at its memory: the next event ends this, see `arbiter.acquire`.
            self.limit_ns = self.deadline_ns = clock.monotonic_ns()
        made = self.c_nodes.get((id(definer), name))
        if made is None:
            function = naming.c_function(called, definer)
            kind = CLOCK if definer is time and name in _CLOCKS else C
            made = self.c_nodes[id(definer), name] = Node(function, definer, kind)
        made.kept.append(home)
        self.c_nodes[id(home), name] = made
        if home is not getattr(called, "__self__", None):
            self.methods[id(home), name] = made
        return made


def _over() -> None:
    """Stand in for the weak reference to a flight that was stopped."""


def follow(flight: Flight, limit_ns: int) -> Trace | None:
    """Start to follow a call, or join the trace that another probe has on it; None when a tool is at work.

    Ended by `Trace.stop`, once for each probe.
    """
    tool = arbiter.holder
    if isinstance(tool, Trace) and tool.flight() is flight and tool.deadline_ns:
        tool.limit_ns = tool.deadline_ns = max(tool.limit_ns, clock.monotonic_ns() + limit_ns)
        return tool
    trace = Trace(flight, limit_ns)
    return trace if trace.start() else None


def graph_of(trace: Trace) -> Graph:
    """Return what a trace has found, without the objects of the application that it kept."""
    graph = Graph()
    graph.measured, graph.cut = 1, int(trace.cut)
    edges: list[tuple[Node | None, Edge]] = []
    if trace.root is not None:
        edges.append((None, trace.root))
        graph.root = trace.root.node.function
    found = [*list(trace.nodes.values()), *list(trace.c_nodes.values()), trace.others]
    nodes = {id(node): node for node in found if node.kind < HIDDEN}
    for node in nodes.values():
        edges += [(node, edge) for edge in {id(edge): edge for edge in list(node.edges.values())}.values()]
    for caller, edge in edges:
        node = edge.node
        if node.kind >= HIDDEN:
            continue
        edge.primitive = edge.calls - edge.recursive
        # What is taken off as ours is an estimate: for the shortest calls it can be too much.
        edge.self_ns, edge.cumulative_ns = max(edge.self_ns, 0), max(edge.cumulative_ns, 0)
        node.calls += edge.calls
        node.self_ns += edge.self_ns
        if caller is not None:
            graph.count_edge(caller.function, node.function, edge)
    for node in nodes.values():
        if node.calls or node.self_ns:
            node.primitive = node.calls - node.recursive
            node.cumulative_ns = max(node.cumulative_ns, 0)
            graph.count(node.function, node)
    return graph


_biases: list[tuple[float, float]] = []
_LOOP = range(40)


def _biases_ns() -> tuple[int, int]:
    """Return what one event of a Python and of a C function costs outside the hook's two looks at the clock.

    Measured once in a process. They differ: from 3.12 on a C function costs far less to be told of. A virtual machine
    runs half as fast from one second to the next, and so does the hook: the loop says how fast it is now.
    """
    if clock.monotonic_ns is not perf_counter_ns:
        return 0, 0
    if not _biases:
        _biases.append((_event_loops(_python_loop), _event_loops(_c_loop)))
    python_loops, c_loops = _biases[0]
    loop_ns = _usual_ns(_python_loop)
    return int(python_loops * loop_ns), int(c_loops * loop_ns)


def _usual_ns(loop: Callable[[], int]) -> int:
    return sorted([loop() for _ in range(5)])[2]


def _leaf() -> None:
    pass


def _python_loop() -> int:
    began_ns = perf_counter_ns()
    for _ in _LOOP:
        _leaf()
    return perf_counter_ns() - began_ns


def _c_loop() -> int:
    began_ns = perf_counter_ns()
    for _ in _LOOP:
        abs(0)
    return perf_counter_ns() - began_ns


def _event_loops(loop: Callable[[], int]) -> float:
    """Return what an event costs outside the hook's looks at the clock, in times that `_python_loop` takes."""
    turns = [(_traced_ns(loop) - _usual_ns(loop)) / max(_usual_ns(_python_loop), 1) for _ in range(5)]
    # A little less than was measured: too much taken off would show as time below nothing.
    return max(sorted(turns)[2], 0.0) * 15 / (32 * len(_LOOP))


def _traced_ns(loop: Callable[[], int]) -> int:
    """Return what the hook takes a loop of calls for, when it knows of no bias."""

    def twice() -> int:
        loop()  # from 3.12 on, what is called first after the hook was put on is made ready for it
        before_ns = node.cumulative_ns
        loop()
        return node.cumulative_ns - before_ns

    unflown = _Unflown(twice.__code__)
    trace = Trace(unflown, 10**9)  # type: ignore[arg-type]
    for code in (twice.__code__, loop.__code__, _leaf.__code__):
        trace.nodes[id(code)] = node = Node(OTHER, code)
    node = trace.nodes[id(loop.__code__)]
    trace.hook = Hook(trace, (0, 0)).profile
    setprofile(trace.hook)
    return twice()  # its end takes the hook off


class _Unflown:
    """Stands in for a flight whose call is a plain function."""

    generator_like = False
    caller = None

    def __init__(self, code: CodeType) -> None:
        self.code = code
        self.gate = self
