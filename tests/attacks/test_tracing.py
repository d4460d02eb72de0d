"""Debuggers and tracers see what they see without us: pdb, sys.settrace, sys.setprofile, sys.monitoring."""

from __future__ import annotations

import bdb
import io
import pdb
import sys
from typing import Any

import pytest

from .arena import TIMED, assert_same, attack, probe
from .traced_functions import FUNCTIONS, HAS_MONITORING, NAMES, caller, splice_all, target

FIRST = target.__code__.co_firstlineno
SESSIONS = {
    "step through": ["step"] * 30 + ["continue"],
    "next": ["next"] * 12 + ["continue"],
    "break at def": [f"break {FIRST}", "continue", "where", "step", "step", "p a", "return", "continue"],
    "break in body": [
        f"break {FIRST + 5}",
        "continue",
        "p a, b",
        "next",
        "p c",
        "up",
        "down",
        "return",
        "continue",
    ],
    "break by name": ["break target", "continue", "args", "return", "next", "continue"],
    "break by name in keyword function": [
        "break keyed",
        "continue",
        "args",
        "step",
        "step",
        "where",
        "continue",
    ],
    "step into what raises": ["break boom", "continue", "step", "step", "step", "step", "step", "continue"],
    "step through a generator": [
        "break stream",
        "continue",
        "step",
        "step",
        "step",
        "until",
        "return",
        "continue",
    ],
    "until and return": ["step", "step", "return", "step", "step", "until", "continue"],
    "conditional": [
        f"break {FIRST + 5}, a == 1",
        "continue",
        "p a",
        "tbreak boom",
        "continue",
        "where",
        "continue",
    ],
    "jump": ["break target", "continue", "next", f"jump {FIRST + 6}", "p locals()", "return", "quit"],
}


def debugged(commands: list[str]) -> str:
    out = io.StringIO()
    entered = io.StringIO("\n".join(commands) + "\n")
    debugger = pdb.Pdb(stdin=entered, stdout=out, nosigint=True, readrc=False)
    debugger.use_rawinput = False
    debugger.prompt = ""
    try:
        debugger.runcall(caller)
    except bdb.BdbQuit:
        out.write("quit")
    except Exception as error:
        out.write(f"raised {error!r}")
    finally:
        debugger.clear_all_breaks()
        bdb.Breakpoint.clearBreakpoints()
    return out.getvalue()


@attack
def test_pdb_sessions_read_the_same() -> None:
    plain = {name: debugged(commands) for name, commands in SESSIONS.items()}
    probes = splice_all()
    caller()
    assert_same(plain, {name: debugged(commands) for name, commands in SESSIONS.items()})
    before = [each.profiled for each in probes]
    caller()
    assert all(each.profiled > count for each, count in zip(probes, before, strict=True)), (
        "measured again afterwards"
    )


# sys.settrace, sys.setprofile, sys.monitoring.


def traced(opcodes: bool) -> list[Any]:
    seen: list[Any] = []

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_name not in NAMES:
            return None
        seen.append((frame.f_code.co_name, event, frame.f_lineno))
        frame.f_trace_opcodes = opcodes
        return trace

    sys.settrace(trace)
    try:
        caller()
    finally:
        sys.settrace(None)
    return seen


def profiled() -> list[Any]:
    seen: list[Any] = []

    def profile(frame: Any, event: str, argument: Any) -> None:
        if frame.f_code.co_name in NAMES and not event.startswith("c_"):
            seen.append((frame.f_code.co_name, event, frame.f_lineno))

    sys.setprofile(profile)
    try:
        caller()
    finally:
        sys.setprofile(None)
    return seen


def without_ours(events: list[Any]) -> list[Any]:
    return [each for each in events if each[0] not in ("begin", "finish", "unwind", "first")]


@attack
def test_a_tracer_sees_the_same_events() -> None:
    modes = (False,) if TIMED else (False, True)  # the stopwatch's instructions are in the body, for all to see
    for _ in range(2):  # 3.12 tells opcodes from the second time on
        plain = {str(opcodes): traced(opcodes) for opcodes in modes}
    splice_all()
    caller()
    spliced = {str(opcodes): without_ours(traced(opcodes)) for opcodes in modes}
    # `begin` itself, which declines, is a Python call like any other to a tracer; nothing inside it may be.
    assert_same(plain, spliced)


@attack
def test_a_profiler_sees_the_same_events() -> None:
    plain = profiled()
    splice_all()
    caller()
    assert_same({"profile": plain}, {"profile": without_ours(profiled())})


def monitored(event: str, tool: int = 2) -> list[Any]:
    monitoring = sys.monitoring
    seen: list[Any] = []

    def note(code: Any, *rest: Any) -> None:
        if getattr(code, "co_name", None) in NAMES:
            line = rest[0] if event == "LINE" else None
            seen.append((code.co_name, event, line))

    number = getattr(monitoring.events, event)
    monitoring.use_tool_id(tool, "attack")
    monitoring.register_callback(tool, number, note)
    monitoring.set_events(tool, number)
    try:
        caller()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.register_callback(tool, number, None)
        monitoring.free_tool_id(tool)
    return seen


@attack
@pytest.mark.skipif(not HAS_MONITORING, reason="sys.monitoring is new in 3.12")
def test_a_monitoring_profiler_sees_the_same_events() -> None:
    """On 3.12 the prologue's own branch, jump and call are instrumented: said in the README, told here."""
    own = {"BRANCH", "JUMP", "CALL", "INSTRUCTION"} if sys.version_info < (3, 13) else {"INSTRUCTION"}
    if TIMED:  # the stopwatch's branches and jumps are in the body, and its handler behind it
        own |= {"BRANCH", "BRANCH_LEFT", "BRANCH_RIGHT", "JUMP", "EXCEPTION_HANDLED", "RERAISE"}
    events = [
        each
        for each in dir(sys.monitoring.events)
        if each.isupper() and each not in ("NO_EVENTS", "C_RETURN", "C_RAISE") and each not in own
    ]
    plain = {event: monitored(event) for event in events}
    splice_all()
    caller()
    assert_same(plain, {event: without_ours(monitored(event)) for event in events})


@pytest.mark.skipif(TIMED, reason="under profile_if_slow a generator's gate is open for every call")
@attack
@pytest.mark.skipif(not HAS_MONITORING, reason="sys.monitoring is new in 3.12")
def test_a_closed_gate_shows_next_to_nothing() -> None:
    events = ["LINE", "PY_START", "PY_RETURN", "CALL", "RAISE", "PY_UNWIND", "EXCEPTION_HANDLED", "RERAISE"]
    events += [] if sys.version_info < (3, 13) else ["BRANCH", "JUMP"]
    events = [each for each in events if hasattr(sys.monitoring.events, each)]
    plain = {event: monitored(event, 4) for event in events}
    for each in FUNCTIONS:
        probe(each, rate=0.0)
    caller()
    assert_same(plain, {event: monitored(event, 4) for event in events})


@attack
@pytest.mark.skipif(not HAS_MONITORING, reason="sys.monitoring is new in 3.12")
def test_local_events_move_to_the_new_code_and_back() -> None:
    from .arena import unprobe

    monitoring, events = sys.monitoring, sys.monitoring.events
    seen: list[Any] = []
    monitoring.use_tool_id(3, "attack")
    monitoring.register_callback(3, events.PY_START, lambda code, offset: seen.append(code.co_name))
    monitoring.register_callback(3, events.LINE, lambda code, line: seen.append(line))
    monitoring.set_local_events(3, target.__code__, events.PY_START | events.LINE)

    def taken() -> list[Any]:
        seen.clear()
        target(1)
        return list(seen)

    plain = taken()
    assert plain[0] == "target"
    seen_probe = probe(target)
    assert [taken() for _ in range(3)] == [plain] * 3
    assert seen_probe.profiled == 3
    unprobe(target)
    assert taken() == plain
