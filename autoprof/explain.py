"""`autoprof check`, `explain` and `plan`: what a policy file says, and why.

Each returns (exit status, lines for stdout, lines for stderr).
"""

from __future__ import annotations

from autoprof import config, schema, sources
from autoprof.errors import PolicyErrors, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprof.policy import Decision, Grant, Policy, Rule

    Answer = tuple[int, list[str], list[str]]

OK, NEGATIVE, USAGE = 0, 1, 2


def check_lines(
    path: str, *, env: Mapping[str, str], env_name: str | None = None, against: Sequence[str] = ()
) -> Answer:
    """Check a policy file, and with `against` name the rules that match nothing in those modules.

    Modules are read from source, packages with everything below them; nothing of them is executed.
    """
    policy, problems = _load(path, env, env_name)
    if policy is None:
        return NEGATIVE, [], problems
    out = [_summary(policy), *_notes(policy)]
    if not against:
        return OK, out, []
    found, errors = _functions(against)
    unmatched = [rule for rule in policy.rules if not any(_selects(rule, function) for function in found)]
    names = ", ".join(against)
    for rule in unmatched:
        globs = ", ".join(pattern.text for pattern in rule.match)
        out.append(f"{printable(path)}:{rule.line}: {rule.label} matches no function of {names}: {globs}")
    if not unmatched and not errors:
        out.append(f"every rule matches a function of {names} ({len(found)} functions looked at)")
    return NEGATIVE if unmatched or errors else OK, out, errors


def explain_lines(path: str, target: str, *, env: Mapping[str, str], env_name: str | None = None) -> Answer:
    """Say what one function gets by a policy file, and each rule's reason; status 1 for nothing."""
    module, colon, qualname = target.partition(":")
    if not colon or not module or not qualname or ":" in qualname:
        meant = f"{module.rpartition('.')[0] or module}:{module.rpartition('.')[2]}" if not colon else ""
        hint = f" (did you mean {printable(meant, 80)}?)" if meant else ""
        return USAGE, [], [f"a target is written module:function, given '{printable(target, 80)}'{hint}"]
    policy, problems = _load(path, env, env_name)
    if policy is None:
        return NEGATIVE, [], problems
    decision = policy.decide(module, qualname)
    out = [f"{decision.target} in the environment {policy.env}", *_places(module, qualname)]
    for grant in decision.grants:
        out += _grant_lines(policy, grant)
    if decision.none:
        out.append("  policy: none: decorators in the code are off here, but for the policies above")
    if not decision.grants:
        out.append("  no policy: this function is left as it is")
    out += ["rules, in the order they are tried:", *_trace_lines(decision), *_notes(policy)]
    return OK if decision.grants else NEGATIVE, out, []


def plan_lines(
    path: str, modules: Sequence[str], *, env: Mapping[str, str], env_name: str | None = None
) -> Answer:
    """List the functions of modules that a policy file would instrument, from source; status 1 with none."""
    policy, problems = _load(path, env, env_name)
    if policy is None:
        return NEGATIVE, [], problems
    found, errors = _functions(modules)
    lines: dict[str, list[str]] = {}
    for function in found:
        decision = policy.decide(function.module, function.qualname)
        if decision.grants:
            given = ", ".join(f"{grant.kind} ({grant.rule.label})" for grant in decision.grants)
            lines.setdefault(f"{decision.target}: {given}", []).append(str(function.line))
    out = [f"{what}, line {', '.join(places)}" for what, places in lines.items()]
    out.append(f"{len(lines)} of {len(found)} functions would be instrumented")
    return OK if lines else NEGATIVE, out, errors


def _load(path: str, env: Mapping[str, str], env_name: str | None) -> tuple[Policy | None, list[str]]:
    try:
        return config.load(path, env=env, env_name=env_name), []
    except PolicyErrors as errors:
        return None, [str(error) for error in errors.errors]
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        return None, [f"{printable(path)}: {reason}"]


def _summary(policy: Policy) -> str:
    rules = len(policy.rules)
    active = len(policy.active_rules)
    path = printable(policy.path or "")
    return f"{path}: ok, {rules} rule{'s' * (rules != 1)}, {active} active in {policy.env}"


def _notes(policy: Policy) -> list[str]:
    notes = [f"warning: {warning}" for warning in policy.warnings]
    notes += [f"warning: {cost}" for rule in policy.rules if (cost := cost_warning(rule))]
    if policy.inactive:
        notes.append(f"not active in this version: {', '.join(policy.inactive)}")
    return notes


def cost_warning(rule: Rule) -> str:
    """Return what a threshold with a strategy that must run from the call's start costs, or an empty text."""
    options = rule.options
    if options["threshold_ns"] is None or options["strategy"] not in schema.COSTLY_STRATEGIES:
        return ""
    share = schema.describe_field("rate", options["rate"])
    return (
        f"{rule.label}: strategy {options['strategy']} must run from the start of a call, so {share} of all "
        "calls pay for it, and only those over the threshold are kept; strategy sample does not"
    )


def _places(module: str, qualname: str) -> list[str]:
    """Return where the function stands in the source; one target may be several functions."""
    try:
        found = sources.functions(module, sources.find(module))
    except sources.Unreadable as error:
        return [f"  source: {error}"]
    lines = [function for function in found if function.qualname == qualname]
    if not lines:
        return [f"  source: {module} defines no {qualname} (it may be imported, or made while running)"]
    where = (
        f"  source: {printable(lines[0].path)}, line {', '.join(str(function.line) for function in lines)}"
    )
    return [where + (", one probe for all of them" if len(lines) > 1 else "")]


def _grant_lines(policy: Policy, grant: Grant) -> list[str]:
    rule = grant.rule
    written = [
        f"{option.key} {schema.describe_field(option.field, grant.options[option.field])}"
        for option in schema.POLICIES[grant.kind]
        if option.field not in ("env", "enabled")
    ]
    place = f"{printable(policy.path)}:{rule.line}" if policy.path else f"rule {rule.index + 1}"
    return [f"  {grant.kind}, by {rule.label} ({place})", f"      {', '.join(written)}"]


def _trace_lines(decision: Decision) -> list[str]:
    lines = []
    for rule, applies, why in decision.trace():
        label = f" {rule.name}" if rule.name else ""
        sign = "yes" if applies else "no"
        lines.append(f"  {rule.index + 1}{label} (line {rule.line}) {rule.policy}: {sign}, {why}")
    return lines or ["  there are none"]


def _functions(names: Sequence[str]) -> tuple[list[sources.Function], list[str]]:
    """Return the functions of modules and of what lies below them, and what could not be read."""
    found: list[sources.Function] = []
    errors: list[str] = []
    for name in dict.fromkeys(names):
        try:
            inner = sources.modules(name)
        except sources.Unreadable as error:
            errors.append(str(error))
            continue
        for module, spec in inner:
            try:
                found += sources.functions(module, spec)
            except sources.Unreadable as error:
                if module == name:
                    errors.append(str(error))
    return found, errors


def _selects(rule: Rule, function: sources.Function) -> bool:
    """Tell whether a rule's globs, `except` included, select a function, whatever its env and enabled."""
    module, qualname = function.module, function.qualname
    if not any(pattern.matches(module, qualname) for pattern in rule.match):
        return False
    return not any(pattern.matches(module, qualname) for pattern in rule.excepts)
