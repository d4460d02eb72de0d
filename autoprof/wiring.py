"""One policy in force in one process: what is made for it, and what its end and a fork mean for that."""

from __future__ import annotations

import os
import sys
import weakref

from autoprof import (
    arbiter,
    calibration,
    calls,
    compiled,
    events,
    frames,
    guard,
    leaving,
    loading,
    loops,
    run,
    strategies,
    telling,
    turns,
)
from autoprof import flight as flights
from autoprof import gate as gates
from autoprof.background import FORK_DELICATE_WAIT_S, FORK_WAIT_S
from autoprof.budget import Budget
from autoprof.clock import wall_ns
from autoprof.dormant import Resting
from autoprof.flusher import Flusher
from autoprof.governor import Governor
from autoprof.importing import load
from autoprof.installer import SPLICE, Installer
from autoprof.owner import find_owner
from autoprof.reload import Watcher
from autoprof.sampler import nothing, recorder
from autoprof.standing import Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.gate import Gate
    from autoprof.latent import Latent
    from autoprof.policy import Grant, Policy
    from autoprof.probe import Probe
    from autoprof.probe_status import ProbeStatus
    from autoprof.rewrite.backend import Backend

INTERVAL_NS = 10_000_000
_REWRITING = (
    ("autoprof.rewrite.decorate",),
    ("autoprof.rewrite.tree", "autoprof.rewrite.splice", "autoprof.live"),
)
DEFAULT_OUTPUT = "./autoprof-data"
DEFAULT_BUDGET = 0.01
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
        self.installer.on_met, self.installer.on_resting = self._met, self._rests
        self.flusher = Flusher(self._make_writer)
        self.governor = Governor(policy, lambda: self.installer.made.values())
        self.installer.on_woken = self.governor.adopt
        self.installer.dormant.paused = lambda: self.governor.reason
        self.governor.resting = self.installer.dormant.minding_load
        self.started_ns = wall_ns()
        self.budget = self._make_budget()
        self._wire_flusher()
        self.run, self.start_folder = run.run_and_folder()
        self.watcher: Watcher | None = None
        self._hook: Any = None
        self._rested = self._moves = False
        self._telling_later: list[Probe | Resting] | None = []

    def _wire_flusher(self) -> None:
        self.governor.on_change = self.flusher.restate
        self.flusher.on_window = telling.send_sample
        self.flusher.on_period, self.flusher.on_collect = self._reckon, self.installer.dormant.account
        self.flusher.states = Standing(self.policy, self.installer, self.started_ns).news

    def _make_budget(self) -> Budget:
        share = self.policy.budget if self.policy else DEFAULT_BUDGET
        return Budget(
            share,
            lambda: list(self.flusher.active),
            lambda: self.flusher.busy_ns + self.governor.busy_ns,
            lambda: self.flusher.wake(),
        )

    def _reckon(self) -> None:
        calibration.calibrate(self.installer)
        self.budget.tick()

    def _choose_backend(self) -> Backend:
        chosen: Backend = load("autoprof.rewrite.backend").choose(
            self.policy.rewrite if self.policy else "auto"
        )
        for name in _REWRITING[chosen.name == SPLICE]:
            load(name)  # the application's imports are to find them there
        return chosen

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
        calls.on_first_call, calls.on_roused = self._first_call, self._awake
        calls.on_waken = self.installer.dormant.wake
        guard.listeners.append(telling.send_internal_error)
        loading.name_environment(self.policy)
        recorder.interval_ns = INTERVAL_NS
        if self.policy is not None:
            self._hook_imports()
            self._splice_imported()

    def awaken(self, latent: Latent) -> None:
        """Take over from a policy that has met something: its hook, its place."""
        self.run, self.start_folder = latent.run, latent.start_folder
        self._hook, latent.handle = latent.handle, None
        if self._hook is not None:
            self._hook.adopt(self.installer)

    def _hook_imports(self) -> None:
        """Be asked about imports as long as there is a rule."""
        wanted = bool(self.policy and self.policy.active_rules)
        if wanted and self._hook is None:
            from autoprof import importhook

            self._hook = importhook.install(self.installer)
        elif not wanted and self._hook is not None:
            self._hook.uninstall()
            self._hook = None

    def rewrites_as(self, policy: Policy) -> bool:
        """Tell whether what is rewritten already is rewritten as a policy wants it."""
        return (self.policy.rewrite if self.policy else "auto") == policy.rewrite

    def replace(self, policy: Policy) -> list[Probe]:
        """Put another policy in force on what runs; return the probes that are gone. Tell of it by `tell`."""
        from autoprof import regrant

        old, self.policy = self.policy, policy
        loading.name_environment(policy)
        recorder.interval_ns = INTERVAL_NS
        self._moves = self._moves or old is None or _place(old) != _place(policy)
        self._hook_imports()
        self._telling_later = self._telling_later or []  # left by a change that a fault of ours cut short
        gone = regrant.apply(self.installer, policy)
        compiled.report_imported(self.installer, [name for name in list(sys.modules) if policy.covers(name)])
        self._moves = self._moves or not self.installer.made
        self.governor.retarget(policy)
        self.budget.change(policy.budget)
        for each in list(self.installer.made.values()):
            self._sample_at(each.options, each.strategy)
            self.governor.adopt(each)
        self.flusher.states = Standing(policy, self.installer, wall_ns()).news
        return gone

    def _move(self) -> None:
        """Let go of the store that the policy before named; without a probe, of all threads but the watcher too."""
        moves, self._moves = self._moves, False
        if not moves:
            return
        self.flusher.change_writer()
        if not self.installer.made:
            recorder.stop()
            self.governor.rest(FORK_WAIT_S)
            self.flusher.rest(FORK_WAIT_S)

    def tell(self, gone: list[Probe], loaded: bool = True) -> None:
        """Send what a change of policy has to say: where no lock of ours is held.

        Args:
            loaded: whether the policy itself is news.
        """
        self._move()
        installed, self._telling_later = self._telling_later, None
        for each in installed or ():
            telling.send_probe("probe_installed", each)
        for each in gone:
            telling.send_probe("probe_removed", each)
        if self.policy is not None and loaded:
            loading.tell(self.policy)

    def _splice_imported(self) -> None:
        covered = [name for name in list(sys.modules) if self.installer.covers(name)]
        compiled.report_imported(self.installer, covered)
        if not covered or self.installer.backend != SPLICE:
            return
        from autoprof import live, living

        live.install(self.installer, living.functions_of(self.installer.covers))

    def _first_call(self, gate: Gate) -> None:
        if gate.owner is None and gate.code is not None and gate.original is not None:
            owner = find_owner(gate)
            if owner is not None:
                gate.owner = weakref.ref(owner)
        if isinstance(gate, gates.TimedGate) and gate.timer is not None:
            turns.retime(gate)
            if not gate.timer.paused:
                recorder.watch.add(gate)
                if recorder.idle:
                    recorder.wake()
        behind = {*gate.probes, gate.timer} - {None}
        for each in behind:
            self.flusher.watch(each)
            if each.reason and each.state == "installed":
                each.reason = ""
        turns.expire_due()
        self.flusher.start()
        if any(each.check_load for each in behind):
            loops.meet()
            self.governor.start()

    def _installed(self, probe: Probe) -> None:
        self.governor.adopt(probe)
        self._prepare_for(probe.options, probe.strategy)
        self._announce(probe)

    def _met(self, grant: Grant) -> None:
        self._prepare_for(grant.options, self.strategy(strategies.key_for(grant.kind, grant.options)))

    def _rests(self, target: str, grant: Grant) -> None:
        if telling.is_heard("probe_installed"):
            self._announce(Resting(target, grant))

    def _announce(self, probe: Probe | Resting) -> None:
        if self._telling_later is not None:
            self._telling_later.append(probe)
        else:
            telling.send_probe("probe_installed", probe)

    def _prepare_for(self, options: dict[str, Any], strategy: Any) -> None:
        if "threading" not in sys.modules:
            # Beware: whoever imports threading first is its main thread, waited for at exit: never one of ours.
            load("threading")
        self._sample_at(options, strategy)

    def _sample_at(self, options: dict[str, Any], strategy: Any) -> None:
        interval_ns = options.get("interval_ns")
        if interval_ns and strategy is None:
            recorder.interval_ns = min(recorder.interval_ns, max(interval_ns, 1_000_000))

    def _make_writer(self) -> Any:
        # Not socket: it evaluates strings while it is imported, and when that happens at exit, the interpreter forgets
        # that it was going to die of a KeyboardInterrupt.
        from _socket import gethostname

        from autoprof.store import StoreWriter

        policy = self.policy
        return StoreWriter(
            self.output,
            run=self.run,
            pid=os.getpid(),
            host=gethostname(),
            service=dict(policy.service) if policy else {},
            max_size_bytes=policy.store_max_size_bytes if policy else _DEFAULT_MAX_SIZE_BYTES,
            max_age_ns=policy.store_max_age_ns if policy else _DEFAULT_MAX_AGE_NS,
            env=str(events.environment["env"]),
            started_ns=self.started_ns,
        )

    def _deliver(self, probe: Probe, data: Any, duration_ns: int, view: str) -> str | None:
        path: str | None = load("autoprof.artefacts").deliver(
            self.output, probe, data, duration_ns, self.flusher, view
        )
        return path

    def end(self) -> None:
        """Close every gate, give every function its code back, write what is left."""
        if self._hook is not None:
            self._hook.uninstall()
            self._hook = None
        if self.watcher is not None:
            self.watcher.rest(FORK_WAIT_S)
        self.governor.end()
        from autoprof import live, living, marking

        marking.uninstall()
        compiled.restore()
        all_gates = self.installer.all_gates()
        for gate in all_gates:
            gate.close()
            gate.begin = live.declines
        if all_gates and self.installer.backend == SPLICE:
            modules = {gate.module for gate in all_gates} | {"__main__", "__mp_main__"}
            live.restore(living.functions_of(lambda name: name in modules or self.installer.covers(name)))
        self.installer.dormant.forget()
        live.forget()
        arbiter.forget()
        recorder.stop()
        recorder.watch.clear()
        frames.forget_labels()
        strategies.close(self.strategies.values())
        self.flusher.close()
        self.budget.close()
        if telling.send_internal_error in guard.listeners:
            guard.listeners.remove(telling.send_internal_error)
        turns.forget_time()
        for each in self.installer.made.values():
            each.state, each.reason = "removed", "autoprof.stop() was called"
        loading.accept()

    def rest(self) -> None:
        """End our threads before a fork: from 3.12 on it would warn the application of them."""
        recorder.stop(FORK_WAIT_S, FORK_DELICATE_WAIT_S)
        if self.watcher is not None:
            self.watcher.rest(FORK_WAIT_S, FORK_DELICATE_WAIT_S)
        self.governor.rest(FORK_WAIT_S, FORK_DELICATE_WAIT_S)
        self._rested = self.flusher.rest(FORK_WAIT_S, FORK_DELICATE_WAIT_S)

    def resume(self) -> None:
        """Have them start again with the parent's next measured call, if they ran."""
        # Not here: 3.13 counts the threads after this hook. The next measured call wakes the sampler, and that us.
        waits = self._rested or self.governor.rested or self.watcher is not None
        recorder.on_wake = self._awake if waits else nothing
        self.governor.resume()

    def _awake(self) -> None:
        if self._rested:
            self.flusher.start()
        if self.governor.rested:
            self.governor.start()
        if self.watcher is not None:
            self.watcher.start()
        if recorder.watch and recorder.idle:
            recorder.wake()

    def in_child(self) -> None:
        """Start clean in a forked child: no thread, no connection, all counts at zero."""
        self.started_ns = wall_ns()
        guard.forget()
        flights.forget_all()
        recorder.forget_thread()
        gates.reseed()
        old = self.flusher
        self.flusher = Flusher(self._make_writer)
        if old.cut_off:
            self.flusher.give_up()
        self._wire_flusher()
        self.installer.dormant.in_child()
        self.installer.dormant.wake_counted()
        for each in self.installer.made.values():
            each.clear()
        self.budget.in_child()
        for each in list(old.active):
            self.flusher.watch(each)
        for strategy in self.strategies.values():
            strategy.forget()
        leaving.close_with_finalizers(self.flusher)
        if self.watcher is not None:
            self.watcher.forget_thread()
            self.watcher.start()
        self.governor.forget()
        recorder.on_wake = self._awake if self.governor.rested else nothing
        if turns.next_turn_ns() is not None or old.active:
            self.flusher.start()

    def status(self) -> list[ProbeStatus]:
        """Return the state of every probe."""
        from autoprof.probe_status import ProbeStatus

        turns.expire_due()
        self.installer.dormant.wake_counted()
        listed = [*self.installer.made.values(), *self.installer.removed.values()]
        resting = map(ProbeStatus.of_resting, self.installer.dormant.listed())
        return [*map(ProbeStatus.of, listed), *resting]


def _place(policy: Policy) -> tuple[object, ...]:
    return policy.output, policy.service, policy.env, policy.store_max_size_bytes, policy.store_max_age_ns
