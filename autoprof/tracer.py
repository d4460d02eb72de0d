"""The deterministic tracer: every call inside one profiled call, by caller and callee, with counts and times.

One hook by `sys.setprofile`, on the profiled call's own thread. Measured on 3.11.7 / 3.12.1 / 3.13.0, two noisy cores, a
loop over an empty function (36 ns plain), as cost added to a call in the measured thread, and slowdown of another busy one:

    way                     added to a call           other thread
    sys.setprofile, this    0.9 / 1.4 / 1.5 us        1.0 / 2.7 / 2.4 times
    sys.monitoring          - / 1.3 / 1.3 us          - / 9 to 11 / 3 to 4 times
    cProfile                0.2 / 0.1 / 0.25 us       1.0 / 4.1 / 4.8 times, and mixes all threads from 3.12 on
    yappi                   0.2 / 0.2 / 0.4 us        1.0 / 90 / 44 times ("Internal Error" on 3.12 and 3.13)

The callbacks of `sys.monitoring` run in every thread, hence its slowdown of the others. What the hook itself takes is
measured and taken off all times. A frame counts only if the call that made it does (`f_back`): other greenlets, tasks
that run while the profiled coroutine is suspended, and whatever our own functions call are left out.
"""

from __future__ import annotations

import os
from sys import getprofile, setprofile
from time import perf_counter_ns
from types import ModuleType

from autoprof import arbiter, clock, guard
from autoprof.callgraph import OTHER, Figures, Graph
from autoprof.rewrite.epilogue import first_resume
from autoprof.sampler import frame_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from autoprof.callgraph import Function
    from autoprof.flight import Flight

    Hook = Callable[[FrameType, str, Any], None]

MAX_NODES = 20_000
_GENERATOR_LIKE = 0x20 | 0x80 | 0x200
_PYTHON, _C, _HIDDEN, _TRANSPARENT = range(4)
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_WRAPPERS = os.path.join(_PACKAGE, "rewrite", "decorate.py")

# A metaclass may have its own idea of these attributes; asking it would run the application's code in here.
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_dict_of: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_module_of: Callable[[type], Any] = type.__dict__["__module__"].__get__
_qualname_of: Callable[[type], Any] = type.__dict__["__qualname__"].__get__


class Node(Figures):
    """A function as the hook counts it; `calls` and `self_ns` are those of the edges to it.

    Attributes:
        level: how many of its calls are open.
        recursive: calls that began while another was open.
        edges: id of what is called → the edge to it; only ids of what some node keeps alive.
        kind: `_HIDDEN` = ours; `_TRANSPARENT` = our wrapper, which stands for the function inside.
        start: the instruction at which its frame begins, where a frame can be resumed; else 0.
        kept: what the keys' ids belong to, kept alive so that no other object gets one.
    """

    __slots__ = ("edges", "function", "kept", "kind", "level", "recursive", "start")

    def __init__(self, function: Function, kept: Any, kind: int = _PYTHON, start: int = 0) -> None:
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


class Trace:
    """Follows one call. `start` on its thread; `stop` on any.

    Attributes:
        flight: the call.
        stack: what the hook returns to when its open calls end, innermost last; empty while nothing is measured.
        limit_ns: the point in time at which measuring stops, the call goes on.
        deadline_ns: the same, and 0 once the hook has to take itself off at its next event.
        cut: the call was not followed to its end.
    """

    def __init__(self, flight: Flight, limit_ns: int) -> None:
        self.flight = flight
        self.deadline_ns = self.limit_ns = clock.monotonic_ns() + limit_ns
        self.stack: list[Any] = []
        self.nodes: dict[int, Node] = {}
        self.c_nodes: dict[tuple[int, str], Node] = {}
        self.closed = False
        self.cut = False
        self.others = Node(OTHER, None)
        self.root: Edge | None = None
        self.result: Graph | None = None
        self.hook: Any = None
        self.close: Callable[[int], None] = _nothing

    @property
    def measuring(self) -> bool:
        """Whether the profiled call runs right now, rather than waits."""
        return bool(self.stack)

    def start(self) -> bool:
        """Put the hook on this thread; False when another tool is at work."""
        if not arbiter.acquire(self):
            return False
        bias_ns = _bias_ns()
        self.hook, self.close = make_hook(self, bias_ns)
        try:
            setprofile(self.hook)
        except BaseException:
            self.abandon()
            arbiter.release(self)
            raise
        return True

    def stop(self) -> Graph:
        """End it; return what was measured. A second time returns the same."""
        if self.result is None:
            stolen = self.stack and not self.closed and getprofile() is not self.hook
            self.cut = self.cut or bool(stolen)
            self.detach()
            self.close(min(clock.monotonic_ns(), self.limit_ns))
            self.close = _nothing
            arbiter.release(self)
            self.result = graph_of(self)
            self.result.cut = int(self.cut)
            self.nodes.clear()
            self.c_nodes.clear()
        return self.result

    def detach(self) -> None:
        """Take the hook off this thread if it is there; elsewhere it takes itself off at its next event."""
        self.closed = True
        self.deadline_ns = 0
        if self.hook is not None and getprofile() is self.hook:
            setprofile(None)
            self.hook = None  # it holds this object

    def abandon(self) -> None:
        """Take the hook off in a forked child and forget what was measured."""
        self.detach()
        self.result = Graph()

    def paused(self) -> None:
        """Notice that the profiled call is not running any more: it has ended, unless it can be resumed."""
        if not self.flight.gate.generator_like:
            self.detach()

    def failed(self, error: Exception) -> None:
        """End measuring after a failure of ours."""
        self.cut = True
        self.detach()
        guard.report("tracer", error)

    def overdue(self) -> None:
        """End measuring at the limit, or because somebody else has ended it."""
        if not self.closed:
            self.cut = True
            self.close(self.limit_ns)
        self.detach()

    def is_root(self, frame: FrameType) -> bool:
        """Tell whether a frame is the profiled call's own."""
        flight = self.flight
        if frame.f_code is not flight.code:
            return False
        if flight.gate.generator_like:
            living = flight.living() if flight.living is not None else None
            return living is not None and frame_of(living) is frame
        return flight.caller is None or frame.f_back is flight.caller

    def root_edge(self, frame: FrameType) -> Edge | None:
        """Return the edge of the profiled call itself when a frame is its own, which nothing of ours is above."""
        if not self.is_root(frame):
            return None
        if self.root is None:
            self.root = Edge(self._node(frame))
        return self.root

    def edge(self, edges: dict[int, Edge], frame: FrameType) -> Edge:
        """Return the edge to a Python function that is called for the first time from one place."""
        node = self._node(frame)
        edge = edges.get(id(node))
        if edge is None:
            edge = edges[id(node)] = edges[id(frame.f_code)] = Edge(node)
        return edge

    def c_edge(self, edges: dict[int, Edge], called: Any) -> Edge:
        """Return the edge to a C function; bound methods are new objects at each call, so most come here."""
        node = self._c_node(called)
        edge = edges.get(id(node))
        if edge is None:
            edge = edges[id(node)] = Edge(node)
        if type(called.__self__) is ModuleType:
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
        start = 0
        if code.co_flags & _GENERATOR_LIKE:
            start = 2 * (first_resume(code.co_code) or 0)
        made = self.nodes[id(code)] = Node(_function(frame, code), code, _kind(code), start)
        return made

    def _c_node(self, called: Any) -> Node:
        """Return a C function's node: methods by the class that has them, whatever object they are bound to."""
        owner, name = getattr(called, "__self__", None), called.__name__
        home: Any = owner if isinstance(owner, (ModuleType, type)) else type(owner)
        known = self.c_nodes.get((id(home), name))
        if known is not None:
            return known
        if len(self.c_nodes) >= MAX_NODES:
            return self.others
        defining = home if isinstance(home, ModuleType) else _defining(home, name)
        made = self.c_nodes.get((id(defining), name))
        if made is None:
            function = _c_function(called, owner, defining)
            made = self.c_nodes[id(defining), name] = Node(function, defining, _C)
        made.kept.append(home)
        self.c_nodes[id(home), name] = made
        return made


def follow(flight: Flight, limit_ns: int) -> Trace | None:
    """Start to follow a call, or join the trace that another probe has on it; None when a tool is at work.

    Ended by `Trace.stop`, once for each probe.
    """
    tool = arbiter.holder
    if isinstance(tool, Trace) and tool.flight is flight and not tool.closed:
        tool.limit_ns = tool.deadline_ns = max(tool.limit_ns, clock.monotonic_ns() + limit_ns)
        return tool
    trace = Trace(flight, limit_ns)
    return trace if trace.start() else None


def _kind(code: CodeType) -> int:
    path = code.co_filename
    if not path.startswith(_PACKAGE):
        return _PYTHON
    return _TRANSPARENT if path == _WRAPPERS and code.co_name == "wrapper" else _HIDDEN


def _function(frame: FrameType, code: CodeType) -> Function:
    module = dict.get(frame.f_globals, "__name__")
    if type(module) is not str:
        module = os.path.splitext(os.path.basename(code.co_filename))[0]
    elif module == "__mp_main__":
        module = "__main__"
    return (f"{module}:{code.co_qualname}", code.co_filename, code.co_firstlineno, code.co_name)


def _defining(home: type, name: str) -> type:
    for each in (*_mro_of(home), *_mro_of(type(home))):
        if name in _dict_of(each):
            return each
    return home


def _c_function(called: Any, owner: Any, home: Any) -> Function:
    name = called.__name__
    if isinstance(home, type):
        module, qualname = _module_of(home), _qualname_of(home)
        if owner is None:
            return (f"builtins:{name}", "", 0, f"<built-in method {name}>")
        if isinstance(owner, type):
            return (f"{module}:{qualname}.{name}", "", 0, f"<built-in method {name}>")
        return (f"{module}:{qualname}.{name}", "", 0, f"<method {name!r} of {qualname!r} objects>")
    module = called.__module__
    if type(module) is not str:
        module = "builtins"
    return (f"{module}:{name}", "", 0, f"<built-in method {module}.{name}>")


def make_hook(trace: Trace, bias_ns: int) -> tuple[Hook, Callable[[int], None]]:
    """Return the hook, and what ends the calls still open at a point in time.

    Written out and with its state in cells: what is called or looked up here is paid at every call of the application.

    Args:
        bias_ns: what an event costs before and after the hook looks at the clock.
    """
    now, stack = clock.monotonic_ns, trace.stack
    top: Any = None
    edge: Any = None
    edges: Any = None
    lost_ns = begun_ns = spent_ns = 0

    def leave(at_ns: int) -> None:
        nonlocal top, edge, edges, begun_ns, spent_ns, lost_ns
        span_ns = at_ns - lost_ns - begun_ns
        if edge.kind > _C:
            lost_ns += span_ns - spent_ns
            span_ns = spent_ns
        else:
            node = edge.node
            edge.self_ns += span_ns - spent_ns
            edge.level = level = edge.level - 1
            if not level:
                edge.cumulative_ns += span_ns
            node.level = level = node.level - 1
            if not level:
                node.cumulative_ns += span_ns
        top, edge, edges, begun_ns, spent_ns = stack.pop()
        spent_ns += span_ns

    def hook(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal top, edge, edges, begun_ns, spent_ns, lost_ns
        entered_ns = now()
        try:
            called = None
            if event == "call":
                if frame.f_back is top and edges is not None:
                    called = edges.get(id(frame.f_code)) or trace.edge(edges, frame)
                elif not stack:
                    called = trace.root_edge(frame)
            elif frame is not top:
                pass
            elif event == "c_call":
                if edge.kind == _C:
                    leave(entered_ns)  # its end was never told
                if not edge.kind:
                    called = edges.get(id(arg)) or trace.c_edge(edges, arg)
            elif event == "return":
                if edge.kind == _C:
                    leave(entered_ns)
                leave(entered_ns)
                if not stack:
                    trace.paused()
            elif edge.kind == _C:
                leave(entered_ns)
            if called is not None:
                stack.append((top, edge, edges, begun_ns, spent_ns))
                top, edge, begun_ns, spent_ns = frame, called, entered_ns - lost_ns, 0
                if called.kind > _C:
                    edges = edges if called.kind == _TRANSPARENT else None
                else:
                    edges = called.edges
                    if not called.start or frame.f_lasti <= called.start:
                        called.calls += 1
                        if called.node.level:
                            called.node.recursive += 1
                            called.recursive += bool(called.level)
                    called.level += 1
                    called.node.level += 1
            if entered_ns > trace.deadline_ns:
                trace.overdue()
        except Exception as error:
            trace.failed(error)
        lost_ns += now() - entered_ns + bias_ns

    def close(at_ns: int) -> None:
        while stack:
            leave(at_ns)

    return hook, close


def graph_of(trace: Trace) -> Graph:
    """Return what a trace has found, without the objects of the application that it kept."""
    graph = Graph()
    graph.measured = 1
    edges: list[tuple[Node | None, Edge]] = []
    if trace.root is not None:
        edges.append((None, trace.root))
        graph.root = trace.root.node.function
    nodes = {
        id(each): each for each in (*list(trace.nodes.values()), *list(trace.c_nodes.values()), trace.others)
    }
    for node in nodes.values():
        edges += [(node, each) for each in {id(each): each for each in list(node.edges.values())}.values()]
    for caller, edge in edges:
        node = edge.node
        if node.kind > _C:
            continue
        node.calls += edge.calls
        edge.self_ns, edge.cumulative_ns = max(edge.self_ns, 0), max(edge.cumulative_ns, 0)
        node.self_ns += edge.self_ns
        edge.primitive = edge.calls - edge.recursive
        if caller is not None:
            graph.count_edge(caller.function, node.function, edge)
    for node in nodes.values():
        if node.kind <= _C and (node.calls or node.self_ns):
            node.primitive = node.calls - node.recursive
            node.cumulative_ns = max(node.cumulative_ns, 0)
            graph.count(node.function, node)
    return graph


def _nothing(at_ns: int) -> None:
    """Stand in for what ends the open calls, once there are none."""


_biases: list[int] = []


def _bias_ns() -> int:
    """Return what one event costs outside the hook's two looks at the clock; measured once in a process."""
    if clock.monotonic_ns is not perf_counter_ns:
        return 0
    if not _biases:
        _biases.append(_measured_bias_ns())
    return _biases[0]


def _measured_bias_ns() -> int:
    def leaf() -> None:
        pass

    def loop() -> int:
        began_ns = perf_counter_ns()
        for _ in _LOOP:
            leaf()
        return perf_counter_ns() - began_ns

    plain_ns = min(loop() for _ in range(9))
    traced_ns = min(_traced_ns(loop, leaf) for _ in range(9))
    # A little less than was measured: too much taken off would show as time below nothing.
    return max(traced_ns - plain_ns, 0) * 7 // (16 * len(_LOOP))


_LOOP = range(40)


def _traced_ns(loop: Callable[[], int], leaf: Callable[[], None]) -> int:
    """Return what the hook takes a loop of calls for, when it knows of no bias."""
    from autoprof.flight import Flight

    flight = Flight()
    flight.code, flight.caller = loop.__code__, None  # type: ignore[attr-defined]
    flight.gate = _PlainGate()  # type: ignore[assignment]
    trace = Trace(flight, 10**9)
    for each in (loop, leaf):
        code = each.__code__  # type: ignore[attr-defined]
        trace.nodes[id(code)] = Node(("", "", 0, ""), code)
    trace.hook, _ = make_hook(trace, 0)
    setprofile(trace.hook)
    loop()  # its end takes the hook off
    return trace.nodes[id(loop.__code__)].cumulative_ns  # type: ignore[attr-defined]


class _PlainGate:
    generator_like = False
