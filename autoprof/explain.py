"""`autoprof check`, `explain` and `plan`: what a policy file says, and why.

Each returns (exit status, lines for stdout, lines for stderr).
"""

from __future__ import annotations

import os

from autoprof import advice, config, decorated, schema, sources
from autoprof.errors import PolicyErrors, StoreError, nearest, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from autoprof.decorated import Decorator
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


def explain_lines(
    path: str, target: str, *, env: Mapping[str, str], env_name: str | None = None, folder: str | None = None
) -> Answer:
    """Say what one function gets by a policy file and by decorators in its code, why, and what came of it.

    Args:
        folder: Output folder with the last run; None: AUTOPROF_OUTPUT, else the policy's.

    Returns:
        Status 1 when the function gets nothing.
    """
    module, colon, qualname = target.partition(":")
    if not colon or not module or not qualname or ":" in qualname:
        meant = f"{module.rpartition('.')[0] or module}:{module.rpartition('.')[2]}" if not colon else ""
        hint = f" (did you mean {printable(meant, 80)}?)" if meant else ""
        return USAGE, [], [f"a target is written module:function, given '{printable(target, 80)}'{hint}"]
    policy, problems = _load(path, env, env_name)
    if policy is None:
        return NEGATIVE, [], problems
    if folder is not None and not os.path.isdir(folder):
        return NEGATIVE, [], [f"no folder {folder!r}"]
    decision = policy.decide(module, qualname)
    out = [f"{decision.target} in the environment {policy.env}", *_places(module, qualname)]
    for grant in decision.grants:
        out += _grant_lines(policy, grant)
    in_code, said = _decorator_lines(policy, decision, module, qualname, env)
    out += said
    if decision.none:
        out.append("  policy: none: decorators in the code are off here, but for the policies above")
    if not decision.grants and not in_code:
        out.append("  no policy: this function is left as it is")
        out += [f"  {line}" for line in _what_to_write(policy, module, qualname)]
    given = {grant.kind: grant.options for grant in decision.grants}
    given |= {one.kind: one.options or {} for one in in_code}
    if any(options.get("check_load", True) for options in given.values()):
        out += [f"  {line}" for line in filter(None, [advice.load_line(policy)])]
    told, problems = _last_run(policy, decision.target, given, folder or env.get("AUTOPROF_OUTPUT"), path)
    out += ["the last run:", *(f"  {line}" for line in told)] if told else []
    out += ["rules, in the order they are tried:", *_trace_lines(decision), *_notes(policy)]
    return OK if given else NEGATIVE, out, problems


def _decorator_lines(
    policy: Policy, decision: Decision, module: str, qualname: str, env: Mapping[str, str]
) -> tuple[list[Decorator], list[str]]:
    """Return the decorators in the code that are in force, and a sentence for each that is there."""
    try:
        found = decorated.decorators(module, sources.find(module), qualname)
    except sources.Unreadable:  # told by `_places`
        return [], []
    in_force: list[Decorator] = []
    lines = []
    for one in reversed(found):  # the one nearest to the function is applied first
        why = _why_off(one, policy, decision, env) or next(
            (
                f"the one in line {other.line} is nearer to the function"
                for other in in_force
                if other.kind == one.kind
            ),
            "",
        )
        if not why:
            in_force.append(one)
        unknown = f"; only running it tells {', '.join(one.unknown)}" if one.unknown else ""
        state = f"not in force: {why}" if why else f"in force{unknown}"
        lines.append(f"  {one.kind}, by the decorator in line {one.line}: {state}")
    return in_force, lines[::-1]


def _why_off(one: Decorator, policy: Policy, decision: Decision, env: Mapping[str, str]) -> str:
    """Return why a decorator gives nothing, or an empty text."""
    if env.get("AUTOPROF_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return "AUTOPROF_ENABLED switches all of them off"
    if one.problem:
        return f"it raises {printable(one.problem)}"
    for grant in decision.grants:
        if grant.kind == one.kind:
            return f"{grant.rule.label} (line {grant.rule.line}) gives {one.kind} too, and a rule wins over a decorator"
    if decision.none:
        ended = next(rule for rule, applies, _ in decision.trace() if applies and rule.policy == "none")
        return f"{ended.label} (line {ended.line}) has policy: none, which switches decorators off"
    options = one.options or {}
    if not options.get("enabled", True):
        return "enabled=False is written there"
    allowed = options.get("env")
    if isinstance(allowed, tuple) and policy.env not in allowed:
        names = " or ".join(allowed)
        return f"it is for the environment {names}, and this is {policy.env} (write env={[*allowed, policy.env]} there)"
    return ""


def _what_to_write(policy: Policy, module: str, qualname: str) -> list[str]:
    """Return what would have the function profiled, when nothing does."""
    function = sources.Function(module, qualname, "", 0)
    selecting = [rule for rule in policy.rules if rule.policy != "none" and _selects(rule, function)]
    lines = advice.exclusion_lines(selecting, policy.env)
    if not selecting:
        lines.append(
            f"no rule names it; one that would: {{match: {printable(f'{module}:{qualname}')}, policy: profile}}"
        )
    return lines


def _last_run(
    policy: Policy, target: str, given: Mapping[str, Mapping[str, object]], folder: str | None, path: str
) -> tuple[list[str], list[str]]:
    """Return what the last run has of a function, and what kept that from being read."""
    from autoprof.store_reader import StoreReader

    folder = os.path.expanduser(folder or policy.output)
    try:
        data = StoreReader([folder]).select("last", stacks=False)
    except StoreError as problem:
        return [], [printable(str(problem))]
    if not data.runs:
        ask = "was the program run with AUTOPROF_CONFIG, and does `autoprof doctor` say live?"
        return [printable(f"none in {folder!r}: {ask}")] if given else [], data.notices
    lines = advice.last_run_lines(data, target, given)
    envs = sorted({row.env for row in data.processes if row.env} - {policy.env})
    if lines and envs:
        lines.insert(0, f"it was in the environment {printable(', '.join(envs))}, this is about {policy.env}")
    if lines and os.stat(path).st_mtime_ns > data.started_ns:
        lines.insert(0, "the policy file was changed after that run began")
    return lines, data.notices


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
        meant = nearest(module, sources.siblings(module))
        return [f"  source: {error}" + (f" (did you mean {meant}?)" if meant and meant != module else "")]
    lines = [function for function in found if function.qualname == qualname]
    if not lines:
        meant = nearest(qualname, [function.qualname for function in found])
        hint = f"did you mean {module}:{meant}?" if meant else "it may be imported, or made while running"
        return [f"  source: {module} defines no {qualname} ({hint})"]
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
