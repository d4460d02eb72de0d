"""What `status` is told of a session: the state of every probe, and the rules that match nothing."""

from __future__ import annotations

from autoprof import guard
from autoprof.clock import wall_ns
from autoprof.probe_status import standing_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.installer import Installer
    from autoprof.policy import Policy, Rule

UNMATCHED_AFTER_NS = 60_000_000_000
INTERNAL = "internal"
"""What stands for the policy where the state is of a place in autoprof that failed."""


class Standing:
    """Remembers what was told last, so that only news are written."""

    def __init__(self, policy: Policy | None, installer: Installer, started_ns: int) -> None:
        self.policy = policy
        self.installer = installer
        self.started_ns = started_ns
        self._told: object = None
        self._warned = False

    def news(self) -> list[Any] | None:
        """Return the state of every probe and unmatched rule for the store, if it is not the one told last."""
        self._warn_of_unmatched_rules()
        probes_now = list(self.installer.made.values())
        told_now = [standing_of(each) for each in probes_now]
        states_now = [(state, reason if state == "shed" else bool(reason)) for state, reason in told_now]
        failures = dict(guard.internal_errors)
        # By magnitude: a failure at every call must not rewrite the states at every flush.
        magnitudes = {where: number.bit_length() for where, number in failures.items()}
        resting = self.installer.dormant
        signature = (
            len(self.installer.matched_rules),
            states_now,
            magnitudes,
            len(resting.gates),
            resting.paused(),
        )
        if signature == self._told:
            return None
        self._told = signature
        from autoprof.store import ProbeState

        states = [
            ProbeState(each.target, each.rule, each.policy, each.strategy_name, state, reason)
            for each, (state, reason) in zip(probes_now, told_now, strict=True)
        ]
        states += [
            ProbeState(each.target, each.rule, each.policy, each.strategy_name, each.state, each.reason)
            for each in resting.listed()
        ]
        for rule, excluded in self._unmatched_rules():
            globs = ", ".join(str(each.text) for each in rule.match)
            state, reason = ("disabled", excluded) if excluded else ("waiting", "matched no function yet")
            states.append(ProbeState(globs, rule.label, rule.policy, "", state, reason))
        for where, number in failures.items():
            told = f"{number} or more internal errors; see the application's log"
            states.append(ProbeState(where, "autoprof", INTERNAL, "", "failed", told))
        return states

    def _unmatched_rules(self) -> list[tuple[Rule, str]]:
        """Return the rules that have matched nothing, each with why it can't here: `env`, `enabled`; "" if it can."""
        if self.policy is None:
            return []
        matched, env = self.installer.matched_rules, self.policy.env
        rules = [each for each in self.policy.rules if each.index not in matched and each.policy != "none"]
        return [(each, each.excluded(env)) for each in rules]

    def _warn_of_unmatched_rules(self) -> None:
        if self._warned or wall_ns() - self.started_ns < UNMATCHED_AFTER_NS:
            return
        self._warned = True
        for rule, excluded in self._unmatched_rules():
            if excluded:
                continue
            globs = ", ".join(str(each.text) for each in rule.match)
            guard.warn(f"{rule.label} has matched no function in the first minute: {globs}")
