"""What `status` is told of a session: the state of every probe, and the rules that match nothing."""

from __future__ import annotations

from autoprof import guard
from autoprof.clock import wall_ns
from autoprof.probe_status import standing_of
from autoprof.store_records import ProbeState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.dormant import Resting
    from autoprof.installer import Installer
    from autoprof.policy import Policy, Rule
    from autoprof.probe import Probe

UNMATCHED_AFTER_NS = 60_000_000_000
INTERNAL = "internal"
"""What stands for the policy where the state is of a place in autoprof that failed."""


def _state_of(each: Probe | Resting, state: str, reason: str) -> ProbeState:
    return ProbeState(each.target, each.rule, each.policy, each.strategy_name, state, reason)


class Standing:
    """Remembers what was told last, so that only news are written."""

    def __init__(self, policy: Policy | None, installer: Installer, started_ns: int) -> None:
        self.policy = policy
        self.installer = installer
        self.started_ns = started_ns
        self._outline: object = None
        self._told: dict[Probe, tuple[str, str, str, tuple[str, str | bool]]] = {}
        self._warned = False

    def news(self, whole: bool = False) -> tuple[list[ProbeState], bool] | None:
        """Return states for the store, and whether they take the place of all that were told before; None: no news.

        A process has thousands of functions, and the budget changes a few at a time.

        Args:
            whole: tell everything, whatever was told before.
        """
        self._warn_of_unmatched_rules()
        failures = dict(guard.internal_errors)
        # By magnitude: a failure at every call must not rewrite the states at every flush.
        magnitudes = {where: number.bit_length() for where, number in failures.items()}
        resting = self.installer.dormant
        outline = (len(self.installer.matched_rules), magnitudes, resting.paused(), resting.over())
        whole = whole or outline != self._outline
        if whole:
            self._outline, self._told = outline, {}
        arrived = resting.take_arrivals()
        states = [_state_of(each, *standing) for each, standing in self._changed()]
        states += [
            _state_of(each, each.state, each.reason) for each in resting.listed(None if whole else arrived)
        ]
        if whole:
            states += self._rules_and_failures(failures)
        return (states, whole) if states or whole else None

    def _changed(self) -> list[tuple[Probe, tuple[str, str]]]:
        """Return the probes whose standing is not the one told last; it is remembered as told."""
        found = []
        told = self._told
        for each in list(self.installer.made.values()):
            state, reason, paused = each.state, each.reason, each.paused
            seen = told.get(each)
            if seen is not None and seen[0] is state and seen[1] is reason and seen[2] is paused:
                continue  # as it is with nearly all of them, each second
            standing = state, reason = standing_of(each)
            mark = (state, reason if state == "shed" else bool(reason))
            told[each] = (each.state, each.reason, each.paused, mark)
            if seen is None or seen[3] != mark:
                found.append((each, standing))
        return found

    def _rules_and_failures(self, failures: dict[str, int]) -> list[ProbeState]:
        states = []
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
