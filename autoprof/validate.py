"""From a tree of nodes to a Policy, noting everything that is wrong on the way. Pure: no YAML, no file."""

from __future__ import annotations

from autoprof import schema
from autoprof.document import Mapping, Node, Problems, Scalar, Sequence
from autoprof.errors import BadValue, nearest
from autoprof.globs import MATCH_FORM, Pattern
from autoprof.policy import Policy, Rule
from autoprof.values import choice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from collections.abc import Mapping as Environment

USUAL_ENVIRONMENTS = ("dev", "test", "prod")
_SETTINGS = {option.key: option for option in schema.SETTINGS}
_TABLES = {kind: {option.key: option for option in row} for kind, row in schema.POLICIES.items()}
_EVERY_OPTION = {key: option for table in _TABLES.values() for key, option in table.items()}
_NESTED = {"store": schema.STORE, "load": schema.LOAD}
_parse_policy = choice("policy", *schema.POLICIES)
_parse_exporter = choice("exporter", *schema.EXPORTERS)


def build(
    root: Node, problems: Problems, *, env: Environment[str, str], env_name: str | None, path: str | None
) -> Policy:
    """Return the policy a tree means.

    Raises:
        PolicyErrors: all problems, those noted before included.
    """
    builder = _Builder(problems)
    settings = builder.settings(root)
    problems.raise_any()
    rules = builder.rules
    settings["env"] = env_name or env.get("AUTOPROF_ENV", "").strip() or settings.get("env", "dev")
    settings["output"] = env.get("AUTOPROF_OUTPUT") or settings.get("output", "./autoprof-data")
    labels = dict(builder.labels)
    settings["service"] = {
        "service": labels.get("service") or env.get("OTEL_SERVICE_NAME") or None,
        "instance": labels.get("instance") or env.get("HOSTNAME") or None,
        "version": labels.get("version"),
    }
    settings["path"] = path
    settings["inactive"] = _inactive(root, settings, rules)
    policy = Policy(rules, settings=settings)
    policy.warnings = _warnings(policy)
    return policy


def _inactive(root: Node, settings: dict[str, object], rules: list[Rule]) -> tuple[str, ...]:
    """Return what the file asks for and this version does not do yet; off asks for nothing."""
    written = [str(key.value) for key, _ in root.pairs] if isinstance(root, Mapping) else []
    fields: dict[str, tuple[str, ...]] = {}
    found = []
    for name in written:
        off = all(settings.get(field, 1) in (None, ()) for field in fields.get(name, (name,)))
        if name in schema.LATER_KEYS and not off:
            found.append(name)
    for rule in rules:
        if rule.policy in schema.LATER_POLICIES:
            found.append(f"policy: {rule.policy}")
        elif rule.options["strategy"] in schema.LATER_STRATEGIES:
            found.append(f"strategy: {rule.options['strategy']}")
    return tuple(dict.fromkeys(found))


def _warnings(policy: Policy) -> tuple[str, ...]:
    if not policy.rules or policy.active_rules or policy.env in USUAL_ENVIRONMENTS:
        return ()
    return (
        f"no rule is active in the environment {policy.env!r}; the usual names are "
        f"{', '.join(USUAL_ENVIRONMENTS)} (set AUTOPROF_ENV, or env: in the policy file)",
    )


class _Builder:
    """One pass over the tree."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.rules: list[Rule] = []
        self.labels: dict[str, str | None] = {}
        self._patterns: dict[str, Pattern] = {}

    def settings(self, root: Node) -> dict[str, object]:
        """Return the settings written, by field of Policy; rules and labels are kept in the builder."""
        settings: dict[str, object] = {}
        if not isinstance(root, Mapping):
            if not (isinstance(root, Scalar) and root.bad):
                self.problems.add(
                    root, "a policy is a mapping", root.written(), "start with version: 1, then rules:"
                )
            return settings
        written = {str(key.value) for key, _ in root.pairs}
        if "version" not in written:
            place = Scalar(None, line=1 if root.line else 0, column=1)
            self.problems.add(place, "the key version is missing", None, "write version: 1 at the top")
        for key, value in root.pairs:
            if not self.problems.full:
                self._setting(str(key.value), key, value, settings)
        return settings

    def _setting(self, name: str, key: Scalar, value: Node, settings: dict[str, object]) -> None:
        if option := _SETTINGS.get(name):
            self._option(option, value, settings)
        elif name in _NESTED:
            self._nested(name, _NESTED[name], value, settings)
        elif name == "service":
            self._service(value)
        elif name == "exporters":
            settings["exporters"] = self._exporters(value)
        elif name == "rules":
            self._rules(value)
        else:
            right = f"known: {', '.join(schema.TOP_KEYS)}"
            if name in _EVERY_OPTION or name in schema.RULE_KEYS:
                right = "it belongs into a rule, under rules:"
            self._unknown(key, "unknown key", right, schema.TOP_KEYS)

    def _unknown(self, key: Scalar, problem: str, right: str, known: Iterable[str]) -> None:
        if not key.bad:
            meant = None if key.substituted else nearest(str(key.value), known)
            self.problems.add(key, problem, key.written(), right, meant)

    def _option(self, option: schema.Option, node: Node, into: dict[str, object], what: str = "") -> None:
        if isinstance(node, Scalar) and node.bad:
            return
        try:
            into[option.field] = option.parse(node.python(option.typed))
        except BadValue as error:
            self.problems.bad(_inner(node, error.path), error, what or option.key)

    def _nested(self, name: str, row: tuple[schema.Option, ...], node: Node, into: dict[str, object]) -> None:
        table = {option.key: option for option in row}
        if isinstance(node, Mapping):
            for key, value in node.pairs:
                if option := table.get(str(key.value)):
                    self._option(option, value, into)
                else:
                    self._unknown(key, f"unknown key in {name}", f"known: {', '.join(table)}", table)
            return
        if (
            name == "load"
            and isinstance(node, Scalar)
            and node.value in (False, "off", "never", "false", "no")
        ):
            into.update(dict.fromkeys(option.field for option in row))
            return
        form = f"write {name}: {{{', '.join(f'{key}: …' for key in table)}}}"
        self._wrong(node, f"{name} is a mapping", form + (", or off" if name == "load" else ""))

    def _wrong(self, node: Node, problem: str, right: str) -> None:
        self.problems.bad(node, BadValue(problem, right))

    def _service(self, node: Node) -> None:
        labels: dict[str, object] = {}
        if isinstance(node, Scalar):
            self._option(schema.SERVICE[0], node, labels, "service")
        else:
            self._nested("service", schema.SERVICE, node, labels)
        self.labels.update({field: None if value is None else str(value) for field, value in labels.items()})

    def _exporters(self, node: Node) -> tuple[tuple[str, dict[str, object]], ...]:
        form = "write a list such as [log] or [prometheus: {port: 9464}]"
        if not isinstance(node, Sequence):
            self._wrong(node, "exporters is a list", form)
            return ()
        found: list[tuple[str, dict[str, object]]] = []
        for item in node.items:
            options: Node = Mapping()
            name: Node = item
            if isinstance(item, Mapping) and len(item.pairs) == 1:
                name, options = item.pairs[0]
            if not isinstance(name, Scalar) or not (isinstance(options, Mapping) or options.python() is None):
                self._wrong(item, "an exporter is a name, or a name with its options", form)
                continue
            try:
                label = str(_parse_exporter(name.python()))
            except BadValue as error:
                self.problems.bad(name, error)
                continue
            given = options.python(typed=True)
            found.append((label, given if isinstance(given, dict) else {}))
        return tuple(found)

    def _rules(self, node: Node) -> None:
        if not isinstance(node, Sequence):
            self._wrong(
                node, "rules is a list", "write one rule per '- match: …'; rules: [] profiles nothing"
            )
            return
        for index, item in enumerate(node.items):
            if self.problems.full:
                return
            if isinstance(item, Mapping):
                self._rule(index, item)
            else:
                self._wrong(
                    item, "a rule is a mapping", "write '- match: shop.db:*' and 'policy: …' below it"
                )

    def _rule(self, index: int, node: Mapping) -> None:
        parts = {str(key.value): value for key, value in node.pairs}
        kind = self._kind(node, parts.get("policy"))
        table = _TABLES.get(kind, _EVERY_OPTION)
        given: dict[str, object] = {}
        for key, value in node.pairs:
            name = str(key.value)
            if option := table.get(name):
                self._option(option, value, given)
            elif name == "for":
                self._option(schema.FOR, value, given)
            elif name == "name":
                self._option(schema.NAME, value, given)
            elif name not in schema.RULE_KEYS and not key.bad:
                self._unknown_option(key, name, kind)
        match = self._globs(node, "match", parts.get("match"))
        excepts = self._globs(node, "except", parts.get("except"))
        for option in table.values() if kind else ():
            if option.needs and option.key not in parts:
                self.problems.add(
                    node, f"{kind} needs {option.key}", None, f"write {option.key}: {option.needs}"
                )
        if not kind:
            return
        label = given.pop("name", None)
        options = schema.complete_options(kind, given)
        if (problem := schema.format_problem(options)) and "format" in parts:
            self.problems.bad(parts["format"], problem, "format")
        rule = Rule(index, kind, match, options, excepts=excepts, line=node.line, column=node.column)
        if isinstance(label, str):
            rule.name = rule.label = label
        self.rules.append(rule)

    def _kind(self, rule: Node, node: Node | None) -> str:
        """Return the policy's name, or an empty text after noting what is wrong with it."""
        if node is None:
            self.problems.add(rule, "a rule without policy", None, f"known: {', '.join(schema.POLICIES)}")
            return ""
        try:
            value = node.python()
            if value is None and not (isinstance(node, Scalar) and node.bad):
                raise BadValue("no policy", f"known: {', '.join(schema.POLICIES)}", suggestion="none")
            return str(_parse_policy(value))
        except BadValue as error:
            self.problems.bad(node, error)
            return ""

    def _unknown_option(self, key: Scalar, name: str, kind: str) -> None:
        if not kind:
            known = (*_EVERY_OPTION, *schema.RULE_KEYS)
            self._unknown(key, "unknown key in a rule", f"known: {', '.join(known)}", known)
        else:
            self.problems.bad(key, schema.unknown_option(name, kind, schema.RULE_KEYS))

    def _globs(self, rule: Node, name: str, node: Node | None) -> list[Pattern]:
        if node is None:
            if name == "match":
                self.problems.add(rule, "a rule without match", None, MATCH_FORM)
            return []
        items = node.items if isinstance(node, Sequence) else [node]
        if not items and name == "match":
            self._wrong(node, "match is an empty list", MATCH_FORM)
        patterns = []
        for item in items:
            if isinstance(item, Scalar) and (item.bad or (name == "except" and item.null)):
                continue
            try:
                patterns.append(self._pattern(item.python()))
            except BadValue as error:
                self.problems.bad(item, error, name)
        return patterns

    def _pattern(self, text: object) -> Pattern:
        if not isinstance(text, str):
            raise BadValue("not a glob", MATCH_FORM)
        found = self._patterns.get(text)
        if found is None:
            found = self._patterns[text] = Pattern(text)
        return found


def _inner(node: Node, path: tuple[int | str, ...]) -> Node:
    """Return the part of a value that a problem's path leads to."""
    for step in path:
        if isinstance(node, Sequence) and isinstance(step, int):
            node = node.items[step]
        elif isinstance(node, Mapping):
            node = next((value for key, value in node.pairs if key.value == step), node)
    return node
