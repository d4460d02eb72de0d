"""Tell receivers what happens to a measured call: start, stop or exception, the policy's own event, complete."""

from __future__ import annotations

import sys

from autoprof import events
from autoprof.clock import monotonic_ns, wall_ns
from autoprof.importing import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.dormant import Resting
    from autoprof.flight import Flight
    from autoprof.probe import Probe


_home: Any = None

_class_name = type.__dict__["__name__"].__get__
"""Of a class, without asking its metaclass, which may be the application's."""

ears: tuple[Any, ...] = (True,)
"""The receivers of what a call sends, signal by signal: `any` of them tells whether to send; not known at first."""


def _signals() -> Any:
    """Return `autoprof.signals`: with blinker, so not before somebody may listen."""
    global _home, ears
    if _home is None:
        _home = load("autoprof.signals")
        ears = tuple([getattr(_home, name).receivers for name in events.OF_CALLS])
    return _home


def _metadata(event: str, probe: Probe) -> dict[str, Any]:
    out = events.metadata(event, probe.target, probe.rule, probe.policy, probe.strategy_name)
    out["user"] = probe.options.get("metadata") or {}
    return out


def send_start(call: Flight) -> None:
    """Send `start` for each probe of a call that begins."""
    signals = _signals()

    if not signals.start.receivers:
        return
    for each in call.probes:
        if each.emits and each.policy != "profile_if_slow":
            began_ns = monotonic_ns()
            metadata = _metadata("start", each)
            metadata["opts"] = dict(each.options)
            signals.send("start", each.target, {"system_time": wall_ns()}, metadata)
            if each.strategy is None:  # else `begin` charges it all
                each.charge(monotonic_ns() - began_ns)


def send_end(
    samples: int,
    probe: Probe,
    duration_ns: int,
    result: type | None,
    error: BaseException | None,
    found: dict[str, Any],
    kept: bool = True,
) -> bool:
    """Send `stop` or `exception`, the policy's own event, and `complete`.

    Args:
        result: the class of what the call returned.
        samples: stacks that the flight recorder has of this call.
        found: what the strategy's `stop` returned.
        kept: False for a slow call without a profile: only `slow_operation` is sent.

    Returns:
        Whether anybody was listening.
    """
    signals = _signals()

    sent = signals.sent
    if kept:
        _send_outcome(probe, duration_ns, result, error)
    if probe.policy == "profile_if_slow" and signals.slow_operation.receivers:
        measurements = {"duration_ns": duration_ns, "threshold_ns": probe.threshold_ns}
        metadata = {**_metadata("slow_operation", probe), "profiled": kept}
        signals.send("slow_operation", probe.target, measurements, metadata)
    if not kept:
        return bool(sent != signals.sent)
    if probe.policy == "profile_production" and signals.production.receivers:
        metadata = _metadata("production", probe)
        signals.send("production", probe.target, {"duration_ns": duration_ns}, metadata)
    if "event" in found:
        name, measurements, more = found["event"]
        if getattr(signals, name).receivers:
            signals.send(name, probe.target, measurements, {**_metadata(name, probe), **more})
    if signals.complete.receivers:
        metadata = _metadata("complete", probe)
        metadata["profile"] = found.get("profile")
        measurements = {
            "duration_ns": duration_ns,
            "memory_delta": found.get("memory_delta"),
            "samples": found.get("samples", samples if probe.sampled else None),
        }
        signals.send("complete", probe.target, measurements, metadata)
    return bool(sent != signals.sent)


def _send_outcome(probe: Probe, duration_ns: int, result: type | None, error: BaseException | None) -> None:
    signals = _signals()

    if error is None:
        if signals.stop.receivers:
            metadata = _metadata("stop", probe)
            metadata["result"] = None if result is None else _class_name(result)
            signals.send("stop", probe.target, {"duration_ns": duration_ns}, metadata)
    elif signals.exception.receivers:
        metadata = _metadata("exception", probe)
        metadata.update(kind=type(error).__name__, reason=error, stacktrace=_stacktrace(error))
        signals.send("exception", probe.target, {"duration_ns": duration_ns}, metadata)


def _stacktrace(error: BaseException) -> list[tuple[str, int, str]]:
    """Return (file, line, function) of an exception's traceback, outermost first: no values, no source."""
    out: list[tuple[str, int, str]] = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        out.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
        traceback = traceback.tb_next
    return out


def send_sample(probe: Probe, samples: int, window_s: float) -> None:
    """Send `sample`: how many stacks a target got in the last window."""
    if not probe.emits or "blinker" not in sys.modules:
        return
    signals = _signals()

    if signals.sample.receivers:
        metadata = events.metadata("sample", probe.target, probe.rule, probe.policy, probe.strategy_name)
        metadata["user"] = probe.options.get("metadata") or {}
        metadata["window"] = window_s
        signals.send("sample", probe.target, {"samples": samples}, metadata)


def send_session(name: str, measurements: dict[str, Any], **more: Any) -> None:
    """Send an event that belongs to no target; to nobody, at no cost, where blinker is not loaded."""
    if "blinker" not in sys.modules:
        return
    signals = _signals()

    metadata = events.metadata(name, "")
    metadata.update(more)
    signals.send(name, events.SESSION_SENDER, measurements, metadata)


def send_shed(probe: Probe, measurements: dict[str, Any], reason: str) -> None:
    """Send `shed`: the budget has taken a probe's stopwatch off, or closed its gate."""
    if "blinker" not in sys.modules or not probe.emits:
        return
    signals = _signals()

    if signals.shed.receivers:
        signals.send("shed", probe.target, measurements, {**_metadata("shed", probe), "reason": reason})


def send_internal_error(where: str, error: BaseException) -> None:
    """Send `internal_error`: a failure of ours that the application does not see."""
    send_session("internal_error", {}, where=where, kind=type(error).__name__, reason=error)


def is_heard(name: str) -> bool:
    """Tell whether somebody receives a signal; does not load blinker."""
    return "blinker" in sys.modules and bool(getattr(_signals(), name).receivers)


def send_probe(name: str, probe: Probe | Resting) -> None:
    """Send an event about a probe itself, if somebody listens."""
    if is_heard(name):
        metadata = events.metadata(name, probe.target, probe.rule, probe.policy, probe.strategy_name)
        _signals().send(name, probe.target, {}, metadata)
