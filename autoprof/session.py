"""Wire the floors: one policy in force in one process. The only module that knows all the others."""

from __future__ import annotations

import os
import sys
import weakref

from autoprof import arbiter, calls, compiled, events, frames, guard, run, strategies, telling
from autoprof import flight as flights
from autoprof import gate as gates
from autoprof import probe as probes
from autoprof.clock import wall_ns
from autoprof.flusher import Flusher, close_with_multiprocessing
from autoprof.installer import SPLICE, Installer
from autoprof.sampler import nothing, recorder
from autoprof.standing import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.gate import Gate
    from autoprof.policy import Policy
    from autoprof.probe import Probe
    from autoprof.probe_status import ProbeStatus
    from autoprof.rewrite.backend import Backend

FORK_WAIT_S = 0.1
INTERVAL_NS = 10_000_000
DEFAULT_OUTPUT = "./autoprof-data"
_DEFAULT_MAX_SIZE_BYTES = 256_000_000
_DEFAULT_MAX_AGE_NS = 7 * 86_400 * 1_000_000_000


class Session:
    """A policy in force: probes, sampler, writer, import hook.

    Attributes:
        policy: None when decorators in the code started it.
        notices: sentences for `status` and `doctor` about what is not in force.
    """

    def __init__(self, policy: Policy | None) -> None:
        self.policy = policy
        self.strategies: dict[str, Any] = {}
        self.installer = Installer(policy, self._choose_backend, self.strategy)
        self.installer.on_installed = self._installed
        self.flusher = Flusher(self._make_writer)
        self.started_ns = wall_ns()
        self._wire_flusher()
        self.run, self.start_folder = run.run_and_folder()
        self._hook: Any = None
        self._rested = False

    def _wire_flusher(self) -> None:
        self.flusher.on_window = telling.send_sample
        self.flusher.states = Standing(self.policy, self.installer, self.started_ns).news

    def _choose_backend(self) -> Backend:
        from autoprof.rewrite import backend

        return backend.choose(self.policy.rewrite if self.policy else "auto")

    def strategy(self, name: str) -> Any:
        """Return the strategy object of a name; None for `sample`, which the flight recorder does."""
        if name == "sample":
            return None
        if name not in self.strategies:
            self.strategies[name] = strategies.make(name, self._deliver)
        return self.strategies[name]

    @property
    def output(self) -> str:
        """The output folder, absolute."""
        from_policy = self.policy.output if self.policy else None
        folder = os.environ.get("AUTOPROF_OUTPUT") or from_policy or DEFAULT_OUTPUT
        return os.path.join(self.start_folder, os.path.expanduser(folder))

    def begin(self) -> None:
        """Put the policy in force: hook imports, splice what is already imported."""
        policy = self.policy
        events.environment["env"] = policy.env if policy else os.environ.get("AUTOPROF_ENV") or "dev"
        events.environment["service"] = policy.service.get("service") if policy else None
        calls.on_first_call = self._first_call
        guard.listeners.append(telling.send_internal_error)
        recorder.interval_ns = INTERVAL_NS
        if policy is None:
            return
        from autoprof import importhook

        self._hook = importhook.install(self.installer)
        self._splice_imported()
        if policy.inactive:
            guard.inform(f"not active in this version: {', '.join(policy.inactive)}")
        telling.send_session("policy_loaded", {"rules": len(policy.rules)}, path=policy.path, env=policy.env)

    def _splice_imported(self) -> None:
        covered = [name for name in list(sys.modules) if self.installer.covers(name)]
        compiled.report_imported(self.installer, covered)
        if not covered or self.installer.backend != SPLICE:
            return
        from autoprof import live

        live.install(self.installer, live.functions_of(self.installer.covers))

    def _first_call(self, gate: Gate) -> None:
        if gate.owner is None and gate.code is not None and gate.original is not None:
            from autoprof.owner import find_owner

            owner = find_owner(gate)
            if owner is not None:
                gate.owner = weakref.ref(owner)
        if isinstance(gate, gates.TimedGate) and gate.timer is not None:
            recorder.watch.add(gate)
            if recorder.idle:
                recorder.wake()
        for each in {*gate.probes, gate.timer} - {None}:
            self.flusher.watch(each)
            if each.reason and each.state == "installed":
                each.reason = ""
        probes.expire_due()
        self.flusher.start()

    def _installed(self, probe: Probe) -> None:
        # Beware: whoever imports threading first is its main thread, waited for at exit: never one of ours.
        import threading  # noqa: F401

        interval_ns = probe.options.get("interval_ns")
        if interval_ns and probe.strategy is None:
            recorder.interval_ns = min(recorder.interval_ns, max(interval_ns, 1_000_000))
        if "blinker" in sys.modules:
            from autoprof import signals

            if signals.probe_installed.receivers:
                metadata = events.metadata(
                    "probe_installed", probe.target, probe.rule, probe.policy, probe.strategy_name
                )
                signals.send("probe_installed", probe.target, {}, metadata)

    def _make_writer(self) -> Any:
        import socket

        from autoprof.store import StoreWriter

        policy = self.policy
        return StoreWriter(
            self.output,
            run=self.run,
            pid=os.getpid(),
            host=socket.gethostname(),
            service=dict(policy.service) if policy else {},
            max_size_bytes=policy.store_max_size_bytes if policy else _DEFAULT_MAX_SIZE_BYTES,
            max_age_ns=policy.store_max_age_ns if policy else _DEFAULT_MAX_AGE_NS,
            env=str(events.environment["env"]),
            started_ns=self.started_ns,
        )

    def _deliver(self, probe: Probe, data: Any, duration_ns: int, view: str) -> str | None:
        from autoprof import artefacts

        return artefacts.deliver(self.output, probe, data, duration_ns, self.flusher, view)

    def end(self) -> None:
        """Close every gate, give every function its code back, write what is left."""
        if self._hook is not None:
            self._hook.uninstall()
            self._hook = None
        from autoprof import live, marking

        marking.uninstall()
        compiled.restore()
        for gate in self.installer.all_gates():
            gate.close()
            gate.begin = live.declines
        if self.installer.probes and self.installer.backend == SPLICE:
            known = {id(gate) for gate in self.installer.all_gates()}
            modules = {gate.site[0] for gate in self.installer.all_gates()} | {"__main__", "__mp_main__"}
            if known:
                live.restore(live.functions_of(lambda name: name in modules or self.installer.covers(name)))
        live.forget()
        arbiter.forget()
        recorder.stop()
        recorder.watch.clear()
        frames.forget_labels()
        strategies.close(self.strategies.values())
        self.flusher.close()
        if telling.send_internal_error in guard.listeners:
            guard.listeners.remove(telling.send_internal_error)
        probes.forget_time()
        for each in self.installer.probes.values():
            each.state, each.reason = "removed", "autoprof.stop() was called"

    def rest(self) -> None:
        """End our threads before a fork: from 3.12 on it would warn the application of them."""
        recorder.stop(FORK_WAIT_S)
        self._rested = self.flusher.rest(FORK_WAIT_S)

    def resume(self) -> None:
        """Have them start again with the parent's next measured call, if they ran."""
        # Not here: 3.13 counts the threads after this hook. The next measured call wakes the sampler, and that us.
        recorder.on_wake = self.flusher.start if self._rested else nothing

    def in_child(self) -> None:
        """Start clean in a forked child: no thread, no connection, all counts at zero."""
        self.started_ns = wall_ns()
        flights.forget_all()
        recorder.forget_thread()
        gates.reseed()
        old = self.flusher
        self.flusher = Flusher(self._make_writer)
        self._wire_flusher()
        for each in self.installer.probes.values():
            each.clear()
        for each in list(old.active):
            self.flusher.watch(each)
        for strategy in self.strategies.values():
            strategy.forget()
        close_with_multiprocessing(self.flusher)
        if probes.next_turn_ns() is not None or old.active:
            self.flusher.start()

    def status(self) -> list[ProbeStatus]:
        """Return the state of every probe."""
        from autoprof.probe_status import ProbeStatus

        probes.expire_due()
        return [ProbeStatus.of(each) for each in self.installer.probes.values()]


current: Session | None = None
_prepared = False


def start(path_or_policy: Any = None) -> None:
    """Put a policy in force, replacing the one before.

    Args:
        path_or_policy: a path, a mapping in the shape of the file, or a Policy; None is the default session that
            decorators use.

    Raises:
        PolicyErrors: the policy is wrong; the one in force stays.
        OSError: the file can't be read.
    """
    global current
    policy = _policy(path_or_policy)
    old, current = current, None
    if old is not None:
        old.end()
    fresh = Session(policy)
    _prepare_process()
    current = fresh
    fresh.begin()


def _policy(given: Any) -> Policy | None:
    if given is None:
        return None
    from autoprof import config
    from autoprof.policy import Policy

    if isinstance(given, Policy):
        return given
    environment = dict(os.environ)
    if isinstance(given, dict):
        return config.from_mapping(given, env=environment)
    return config.load(os.fspath(given), env=environment)


def start_from_environment() -> None:
    """Start with the file that AUTOPROF_CONFIG names; what `bootstrap` calls once site is done.

    A bad or missing file leaves the application alone: one WARNING for all its processes, and nothing installed.

    Raises:
        PolicyErrors, OSError: only under AUTOPROF_STRICT.
    """
    from autoprof import config
    from autoprof.errors import PolicyErrors

    path = os.environ["AUTOPROF_CONFIG"]
    try:
        policy = config.load(path, env=dict(os.environ), env_name=os.environ.get("AUTOPROF_ENV"))
    except (PolicyErrors, OSError) as error:
        if guard.strict():
            raise
        if not run.inherited_run():
            guard.warn(f"autoprof stays off: {error}")
        telling.send_session("policy_rejected", {}, path=path, errors=str(error).splitlines())
        return
    if not _is_for_this_program(policy):
        return
    start(policy)


def _is_for_this_program(policy: Policy) -> bool:
    if not policy.programs:
        return True
    from fnmatch import fnmatchcase

    from autoprof import program

    names = program.program_names()
    return any(fnmatchcase(name, each) for each in policy.programs for name in names)


def _prepare_process() -> None:
    global _prepared
    if _prepared:
        return
    _prepared = True
    import atexit

    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _at_exit() -> None:
    if current is None:
        return
    try:
        current.flusher.close()
    except Exception as error:
        guard.report("exit", error)


def _before_fork() -> None:
    if current is not None:
        try:
            current.rest()
        except Exception as error:
            guard.report("fork", error)


def _after_fork() -> None:
    if current is not None:
        try:
            current.resume()
        except Exception as error:
            guard.report("fork", error)


def _in_child() -> None:
    if current is None:
        return
    try:
        current.in_child()
    except Exception as error:
        guard.report("fork", error)


def stop() -> None:
    """Take everything off again: idempotent; flushes, waits at most 2 s."""
    global current
    old, current = current, None
    if old is not None:
        try:
            old.end()
        except Exception as error:
            guard.report("stop", error)


def status() -> list[ProbeStatus]:
    """Return the state of every probe of the session in force."""
    return current.status() if current is not None else []


def decorate(function: Any, kind: str, options: dict[str, Any]) -> Any:
    """Be a decorator: start the default session when there is none."""
    if current is None:
        start(None)
    assert current is not None
    env = options.get("env")
    if env is not None and events.environment["env"] not in env:
        options = {**options, "enabled": False}
    return current.installer.decorate(function, kind, options)
