"""What a policy means: rules, and the decision for one function with its reasons. Pure: no file, no YAML."""

from __future__ import annotations

from autoprof import schema
from autoprof.clock import monotonic_ns
from autoprof.globs import Pattern, compile_glob, never_matched
from autoprof.schema import options_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["Decision", "Grant", "Pattern", "Policy", "Rule", "options_for"]

_NEVER_MODULES = frozenset({"autoprof", "site", "_frozen_importlib", "_frozen_importlib_external"})
_NEVER_PREFIXES = ("autoprof.", "importlib._bootstrap")
_CACHED_MODULES = 20_000


class Rule:
    """One rule: globs, a policy and its complete options (see schema.ABSENT for the fields)."""

    __slots__ = (
        "column",
        "excepts",
        "for_ns",
        "index",
        "label",
        "line",
        "match",
        "name",
        "options",
        "policy",
    )

    def __init__(  # a record
        self,
        index: int,
        policy: str,
        match: Sequence[Pattern],
        options: dict[str, object],
        *,
        excepts: Sequence[Pattern] = (),
        name: str | None = None,
        line: int = 0,
        column: int = 0,
    ) -> None:
        self.index = index
        self.policy = policy
        self.match = tuple(match)
        self.excepts = tuple(excepts)
        self.options = options
        self.name = name
        self.line = line
        self.column = column
        self.label = name or f"rule {index + 1}"
        self.for_ns: int | None = options["for_ns"]  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Rule({self.label!r}, {self.policy}, {[pattern.text for pattern in self.match]})"

    def excluded(self, env: str) -> str:
        """Return why the rule does not apply in an environment, or an empty text."""
        if not self.options["enabled"]:
            return "it is disabled (enabled: false)"
        allowed: tuple[str, ...] | None = self.options["env"]  # type: ignore[assignment]
        if allowed is None or env in allowed:
            return ""
        names = " or ".join(allowed)
        return f"it is for the environment {names}, and this is {env} (write env: [{env}] to use it here)"


class Grant:
    """One policy that a rule gives to a function."""

    __slots__ = ("kind", "options", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.kind = rule.policy
        self.options = rule.options

    def __repr__(self) -> str:
        return f"Grant({self.kind} by {self.rule.label!r})"


class Decision:
    """The answer for one function: what it gets (outermost first), by which rule, and why.

    `none` is set where a rule `policy: none` ended the search: decorators in the code are then off, unless an
    earlier rule granted their kind.
    """

    __slots__ = ("_asked", "_policy", "grants", "none", "target")

    def __init__(
        self,
        target: str,
        grants: tuple[Grant, ...],
        none: Rule | None,
        policy: Policy,
        asked: tuple[tuple[str, ...], str],
    ) -> None:
        self.target = target
        self.grants = grants
        self.none = none is not None
        self._policy = policy
        self._asked = asked

    @property
    def kinds(self) -> tuple[str, ...]:
        """The policies granted, outermost first."""
        return tuple(grant.kind for grant in self.grants)

    @property
    def blocked_kinds(self) -> tuple[str, ...]:
        """The policies a decorator in the code can't give here."""
        kinds = self.kinds
        return tuple(kind for kind in schema.POLICIES if kind not in (*kinds, "none")) if self.none else ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """One sentence for each rule, in order: why it applies or not."""
        return tuple(f"{rule.label}: {why}" for rule, _, why in self.trace())

    def trace(self) -> list[tuple[Rule, bool, str]]:
        """Return each rule, whether it granted something (or ended the search), and why."""
        modules, qualname = self._asked
        return self._policy.trace(modules, qualname)


class Policy:
    """A policy file's meaning. Not changed after it was made, but for the caches and `loaded_ns`."""

    __slots__ = (
        "_active", "_clock", "_covers", "_plans", "_reach", "_wild", "budget", "env", "exporters",
        "inactive", "load_cpu", "load_memory", "loaded_ns", "output", "output_mode", "path", "programs",
        "reload_ns", "rewrite", "rules", "service", "store_max_age_ns", "store_max_size_bytes",
        "version", "warnings",
    )  # fmt: skip
    version: int
    env: str
    service: dict[str, str | None]
    programs: tuple[str, ...] | None
    output: str
    output_mode: int
    store_max_size_bytes: int
    store_max_age_ns: int
    reload_ns: int | None
    budget: float | None
    load_cpu: float | None
    load_memory: float | None
    rewrite: str
    exporters: tuple[tuple[str, dict[str, object]], ...]
    path: str | None
    inactive: tuple[str, ...]
    warnings: tuple[str, ...]

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        settings: Mapping[str, object] | None = None,
        clock: Callable[[], int] | None = None,
    ) -> None:
        for name, value in {**_default_settings(), **(settings or {})}.items():
            setattr(self, name, value)
        self.rules = tuple(rules)
        self._clock = clock or _now_ns
        self.loaded_ns = self._clock()
        self._active = tuple(rule for rule in self.rules if not rule.excluded(self.env))
        granting = [pattern for rule in self._active if rule.policy != "none" for pattern in rule.match]
        # What may reach a module: by its top-level package, else only globs with a wildcard in that part.
        self._wild = tuple({p.module: p for p in granting if not p.package}.values())
        self._reach: dict[str, list[Pattern]] = {}
        for pattern in granting:
            if pattern.package:
                self._reach.setdefault(pattern.package, []).append(pattern)
        self._covers: dict[str, bool] = {}
        self._plans: dict[object, tuple[_Plan, ...]] = {}

    def without_rules(self) -> Policy:
        """Return the same settings with nothing to do."""
        return Policy(
            (), settings={name: getattr(self, name) for name in _default_settings()}, clock=self._clock
        )

    @property
    def active_rules(self) -> tuple[Rule, ...]:
        """The rules that `env` and `enabled` leave."""
        return self._active

    def applies_to_program(self, name: str) -> bool:
        """Tell whether `programs:` lets this program be profiled; `name` is its file name without folders."""
        return self.programs is None or any(compile_glob(glob)(name) for glob in self.programs)

    def covers(self, module: str) -> bool:
        """Tell whether an active rule may match a function of a module (cached; about 50 ns on repeat)."""
        known = self._covers.get(module)
        return self._look(module) if known is None else known

    def _look(self, module: str) -> bool:
        if len(self._covers) >= _CACHED_MODULES:
            self._covers.clear()
        name = "__main__" if module == "__mp_main__" else module
        # Every import of an application pays this once: two plain loops, mostly over nothing.
        found = False
        for patterns in (self._reach.get(name.partition(".")[0], ()), self._wild):
            for pattern in patterns:
                if pattern.matches_module(name):
                    found = True
                    break
        found = found and not _never_module(name)
        self._covers[module] = found
        return found

    def decide(self, module: str, qualname: str, aliases: tuple[str, ...] = ()) -> Decision:
        """Decide about one function; `aliases` are other names of its module (`python -m pkg.mod`)."""
        names = _names(module, aliases)
        plans = self._plan(names)
        if not plans:
            return Decision(f"{names[0]}:{qualname}", (), None, self, (names, qualname))
        last = qualname.rpartition(".")[2]
        grants: list[Grant] = []
        kinds: set[str] = set()
        none = None
        if not (last[:1] in "<_" and never_matched(last)):
            for plan in plans:
                rule = plan.rule
                if rule.policy in kinds or not plan.matches(qualname, last) or self._expired(rule):
                    continue
                if rule.policy == "none":
                    none = rule
                    break
                kinds.add(rule.policy)
                grants.append(Grant(rule))
        return Decision(f"{names[0]}:{qualname}", tuple(grants), none, self, (names, qualname))

    def _expired(self, rule: Rule) -> bool:
        return rule.for_ns is not None and self._clock() - self.loaded_ns >= rule.for_ns

    def _plan(self, names: tuple[str, ...]) -> tuple[_Plan, ...]:
        """Return the active rules that reach a module, each with its tests on the function's name alone."""
        plan = self._plans.get(names)
        if plan is None:
            if len(self._plans) >= _CACHED_MODULES:
                self._plans.clear()
            made = () if any(map(_never_module, names)) else (_Plan(rule, names) for rule in self._active)
            plan = self._plans[names] = tuple(one for one in made if one.match)
        return plan

    def trace(self, names: tuple[str, ...], qualname: str) -> list[tuple[Rule, bool, str]]:
        """Return each rule with whether it applies to a function, and why (not)."""
        answer: list[tuple[Rule, bool, str]] = []
        given: dict[str, Rule] = {}
        stopped: Rule | None = None
        for rule in self.rules:
            why = f"not tried: {stopped.label} ended the search (policy: none)" if stopped else ""
            why = why or self._why_not(rule, names, qualname)
            earlier = given.get(rule.policy)
            if not why and earlier is not None:
                why = f"it matches, but {earlier.label} already gives {rule.policy}"
            if why:
                answer.append((rule, False, why))
                continue
            if rule.policy == "none":
                stopped = rule
            given[rule.policy] = rule
            matched = next(p.text for p in rule.match if any(p.matches(name, qualname) for name in names))
            answer.append((rule, True, f"{matched} matches" + (", nothing more is given" if stopped else "")))
        return answer

    def _why_not(self, rule: Rule, names: tuple[str, ...], qualname: str) -> str:
        never = next(filter(_never_module, names), None)
        last = qualname.rpartition(".")[2]
        if never:
            return f"functions of {never} are never profiled"
        if never_matched(last):
            return f"{last} is no function of the application"
        if why := rule.excluded(self.env):
            return why
        if self._expired(rule):
            return "its time is over (for)"
        plan = _Plan(rule, names)
        if plan.matches(qualname, last):
            return ""
        return _why_no_match(rule, names, qualname)


def _why_no_match(rule: Rule, names: tuple[str, ...], qualname: str) -> str:
    near = [p for p in rule.match if any(p.matches_module(name) for name in names)]
    if not near:
        starred = [p for p in rule.match if p.stars and any(p.module_test(name) for name in names)]
        if starred:
            return f"{names[0]} is in the standard library, which a leading * does not reach: name it"
        globs = ", ".join(dict.fromkeys(p.module for p in rule.match))
        return f"the module {names[0]} does not match {printable_globs(globs)}"
    by_name = [p for p in near if p.matches_name(qualname)]
    if not by_name:
        globs = ", ".join(dict.fromkeys(p.qualname for p in near))
        return f"the function {qualname} does not match {printable_globs(globs)}"
    excluded = next((p for p in rule.excepts if any(p.matches(name, qualname) for name in names)), None)
    if excluded:
        return f"excluded by except: {excluded.text}"
    return "lambdas and comprehensions match only where the glob says <"


def printable_globs(globs: str) -> str:
    """Return a list of globs cut to a readable length."""
    return globs if len(globs) <= 120 else globs[:119] + "…"


class _Plan:
    """A rule narrowed to one module."""

    __slots__ = ("excepts", "match", "rule")

    def __init__(self, rule: Rule, names: tuple[str, ...]) -> None:
        self.rule = rule
        self.match = tuple(p for p in rule.match if any(p.matches_module(name) for name in names))
        self.excepts = tuple(p for p in rule.excepts if any(p.matches_module(name) for name in names))

    def matches(self, qualname: str, last: str) -> bool:
        odd = last.startswith("<")
        for pattern in self.match:
            if pattern.matches_name(qualname) and not (odd and not pattern.angle):
                break
        else:
            return False
        return not self.excepts or not any(
            p.matches_name(qualname) and not (odd and not p.angle) for p in self.excepts
        )


def _names(module: str, aliases: tuple[str, ...]) -> tuple[str, ...]:
    """Return all names of a module, the one its target is written with first."""
    if not aliases:
        return ("__main__",) if module == "__mp_main__" else (module,)
    names = ["__main__" if name == "__mp_main__" else name for name in (module, *aliases)]
    if "__main__" in names:
        names.insert(0, "__main__")
    return tuple(dict.fromkeys(names))


def target_of(module: str, qualname: str, aliases: tuple[str, ...] = ()) -> str:
    """Return a function's target as decisions write it."""
    return f"{_names(module, aliases)[0]}:{qualname}"


def _now_ns() -> int:
    return monotonic_ns()  # looked up at each call: tests put a fake clock in


def _never_module(module: str) -> bool:
    return module in _NEVER_MODULES or module.startswith(_NEVER_PREFIXES)


def _default_settings() -> dict[str, object]:
    settings: dict[str, object] = {
        option.field: option.default for option in (*schema.SETTINGS, *schema.STORE, *schema.LOAD)
    }
    labels: dict[str, str | None] = dict.fromkeys(("service", "instance", "version"))
    return {**settings, "service": labels, "exporters": (), "path": None, "inactive": (), "warnings": ()}
