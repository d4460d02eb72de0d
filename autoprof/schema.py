"""The tables of the policy language: every key, its type, range and default. Rules and decorators share them.

An `Option` turns what was written (text from YAML, or a Python value from a decorator) into what the rest of
autoprof uses (integer nanoseconds and bytes, shares from 0 to 1), or raises BadValue.
"""

from __future__ import annotations

from autoprof.errors import BadValue, OptionError, nearest, shown, told
from autoprof.units import format_duration, format_share, format_size, parse_bool, parse_share
from autoprof.values import (
    OFF,
    choice,
    duration,
    environment,
    environments,
    file_mode,
    globs,
    optional,
    output_path,
    positive_share,
    schema_version,
    size,
    text,
    user_metadata,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprof.values import Parser

MICROSECOND_NS = 1_000
MILLISECOND_NS = 1_000_000
SECOND_NS = 1_000_000_000
DAY_NS = 86_400 * SECOND_NS

STRATEGIES = ("sample", "call_graph", "memory", "flame_graph", "fprof", "eprof", "cprof")
# Strategies that must run from the call's first instruction: a threshold can't spare their cost.
COSTLY_STRATEGIES = frozenset(STRATEGIES) - {"sample"}
FLAME_FORMATS = ("svg", "html", "json")
TABLE_FORMATS = ("text", "json", "dot", "callgrind", "pstats")
MEMORY_FORMATS = ("text", "json")
PROFILE_FORMATS = tuple(dict.fromkeys(FLAME_FORMATS + TABLE_FORMATS))
REWRITES = ("auto", "splice", "decorate")
EXPORTERS = ("log", "jsonl", "prometheus", "statsd", "otlp", "pyroscope")

# Parsed and checked, but built by a later issue: named in one INFO line when a policy file uses them.
LATER_KEYS = frozenset({"exporters"})
LATER_POLICIES: frozenset[str] = frozenset()
LATER_STRATEGIES: frozenset[str] = frozenset()


class Option:
    """One key: `key` in YAML, `field` in Rule.options or Policy, its parser and its default (already parsed).

    `typed` options want YAML's own scalar types (metadata); the others read the text as written.
    """

    __slots__ = ("default", "field", "key", "needs", "parse", "typed")

    def __init__(  # a row of a table
        self,
        key: str,
        field: str,
        parse: Parser,
        default: object = None,
        *,
        needs: str = "",
        typed: bool = False,
    ) -> None:
        self.key = key
        self.field = field
        self.parse = parse
        self.default = default
        self.needs = needs
        self.typed = typed


def _common(env: object, interval_ns: int, every_ns: int | None = None) -> tuple[Option, ...]:
    return (
        Option("env", "env", environments, env),
        Option("enabled", "enabled", parse_bool, True),
        Option("emit_metrics", "emit_metrics", parse_bool, True),
        Option("check_load", "check_load", parse_bool, True),
        Option("async", "asynchronous", parse_bool, False),
        Option("metadata", "metadata", user_metadata, {}, typed=True),
        Option("every", "every_ns", optional(duration(), "none", *OFF), every_ns),
        Option("interval", "interval_ns", duration(100 * MICROSECOND_NS, 10 * SECOND_NS), interval_ns),
    )


def _strategy() -> Option:
    return Option("strategy", "strategy", choice("strategy", *STRATEGIES), "sample")


def _rate(default: float, key: str = "rate") -> Option:
    return Option(key, "rate", parse_share, default)


def _duration(default_ns: int) -> Option:
    return Option("duration", "duration_ns", duration(MICROSECOND_NS), default_ns)


def _output() -> Option:
    return Option("output", "output", optional(output_path))


def _format(known: tuple[str, ...], default: str | None) -> Option:
    return Option("format", "format", optional(choice("format", *known)), default)


_DEV_TEST = ("dev", "test")
_10_MS = 10 * MILLISECOND_NS
_THRESHOLD = "threshold", "threshold_ns", duration()
POLICIES: dict[str, tuple[Option, ...]] = {
    "profile": (
        _strategy(),
        _rate(0.01),
        _duration(30 * SECOND_NS),
        Option("threshold", "threshold_ns", optional(duration(), "none")),
        _output(),
        _format(PROFILE_FORMATS, None),
        *_common(None, _10_MS),
    ),
    "profile_if_slow": (
        Option(*_THRESHOLD, needs="a duration such as 100ms"),
        _strategy(),
        _rate(0.1),
        *_common(_DEV_TEST, _10_MS),
    ),
    "profile_production": (_rate(0.001, "sample_rate"), *_common(None, _10_MS)),
    "flame_graph": (
        _output(),
        _format(FLAME_FORMATS, "svg"),
        _duration(10 * SECOND_NS),
        _rate(1.0),
        *_common(None, MILLISECOND_NS, SECOND_NS),
    ),
    "profile_memory": (
        Option("threshold", "threshold_bytes", optional(size(), "none")),
        _rate(1.0),
        *_common(_DEV_TEST, _10_MS),
    ),
    "profile_calls": (
        Option("callees", "callees", parse_bool, True),
        _rate(1.0),
        *_common(_DEV_TEST, _10_MS),
    ),
    "none": (
        Option("env", "env", environments),
        Option("enabled", "enabled", parse_bool, True),
    ),
}
FIXED_STRATEGY = {
    "profile_production": "sample",
    "flame_graph": "flame_graph",
    "profile_memory": "memory",
    "profile_calls": "calls",
    "none": "none",
}
# Every rule's options have all these fields, so that readers need not know which kind has which.
ABSENT: dict[str, object] = {
    "strategy": None, "rate": 1.0, "duration_ns": None, "threshold_ns": None, "threshold_bytes": None,
    "env": None, "enabled": True, "emit_metrics": True, "check_load": True, "asynchronous": False,
    "metadata": {}, "output": None, "format": None, "every_ns": None, "interval_ns": _10_MS,
    "callees": False, "for_ns": None,
}  # fmt: skip
FOR = Option("for", "for_ns", optional(duration(MILLISECOND_NS), "none", *OFF))
NAME = Option("name", "name", optional(text))

SETTINGS: tuple[Option, ...] = (
    Option("version", "version", schema_version, 1, needs="the version of the policy language: version: 1"),
    Option("env", "env", environment, "dev"),
    Option("programs", "programs", optional(globs), None),
    Option("output", "output", text, "./autoprof-data"),
    Option("output_mode", "output_mode", file_mode, 0o600),
    Option("reload", "reload_ns", optional(duration(_10_MS, DAY_NS), *OFF), SECOND_NS),
    Option("budget", "budget", optional(positive_share, *OFF), 0.01),
    Option("rewrite", "rewrite", choice("way of rewriting", *REWRITES), "auto"),
)
STORE = (
    Option("max_size", "store_max_size_bytes", size(64_000), 256_000_000),
    Option("max_age", "store_max_age_ns", duration(SECOND_NS), 7 * DAY_NS),
)
LOAD = (
    Option("cpu", "load_cpu", optional(positive_share, *OFF), 0.8),
    Option("memory", "load_memory", optional(positive_share, *OFF), 0.9),
)
SERVICE = (
    Option("name", "service", optional(text)),
    Option("instance", "instance", optional(text)),
    Option("version", "version", optional(text)),
)
TOP_KEYS = (*(option.key for option in SETTINGS), "service", "store", "load", "exporters", "rules")
RULE_KEYS = ("name", "match", "except", "policy", "for")


def describe_field(field: str, value: object) -> str:
    """Return an option's parsed value as people write it; of metadata only the keys."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (tuple, dict)):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, int) and field.endswith(("_ns", "_bytes")):
        return format_duration(value) if field.endswith("_ns") else format_size(value)
    return format_share(value) if isinstance(value, float) else str(value)


def formats_of(strategy: object) -> tuple[str, ...]:
    """Return the artefact formats that can show what a strategy measures."""
    if strategy == "memory":
        return MEMORY_FORMATS
    return FLAME_FORMATS if strategy in ("sample", "flame_graph") else TABLE_FORMATS


def complete_options(kind: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the options of a policy by field, defaults filled in; `given` has parsed values by field."""
    options = dict(ABSENT)
    options["strategy"] = FIXED_STRATEGY.get(kind)
    for option in POLICIES[kind]:
        options[option.field] = option.default
    options["metadata"] = dict(ABSENT["metadata"])  # type: ignore[call-overload]
    options.update(given)
    return options


def format_problem(options: Mapping[str, object]) -> BadValue | None:
    """Return what is wrong when a format can't show what a strategy measures, or None."""
    known = formats_of(options["strategy"])
    if options["format"] is None or options["format"] in known:
        return None
    strategy = options["strategy"]
    return BadValue(
        f"strategy {strategy} has no such format", f"known: {', '.join(known)}", given=options["format"]
    )


def unknown_option(key: str, kind: str, extra: tuple[str, ...] = ()) -> BadValue:
    """Return the problem of a key that a policy does not have."""
    known = [option.key for option in POLICIES[kind]] + list(extra)
    meant = "async" if key == "async_" else nearest(key, known)
    owners = [name for name, row in POLICIES.items() if any(option.key == key for option in row)]
    if owners:
        return BadValue(f"{kind} has no {key}", f"it belongs to {', '.join(owners)}", suggestion=meant)
    return BadValue(f"unknown key for {kind}", f"known: {', '.join(known)}", given=key, suggestion=meant)


def options_for(kind: str, **given: object) -> dict[str, object]:
    """Validate a decorator's keywords and return the policy's options by field, defaults filled in.

    Keywords are the YAML keys (`async_` for `async`); values may be what YAML would hold ("100ms").

    Raises:
        OptionError: every problem of the keywords, in one message.
    """
    if kind not in POLICIES or kind == "none":
        kinds = [name for name in POLICIES if name != "none"]
        raise OptionError(
            told("unknown policy", shown(kind), f"known: {', '.join(kinds)}", nearest(kind, kinds))
        )
    table = {option.key: option for option in POLICIES[kind]}
    parsed: dict[str, object] = {}
    problems: list[str] = []
    for keyword, value in given.items():
        key = "async" if keyword == "async_" else keyword
        option = table.get(key)
        try:
            if option is None:
                raise unknown_option(keyword, kind)
            parsed[option.field] = option.parse(value)
        except BadValue as error:
            problems.append(f"{kind}: {keyword}: {error}" if option else f"{kind}: {error}")
    needed = [f"{kind} needs {o.key}, {o.needs}" for o in table.values() if o.needs and o.key not in given]
    options = complete_options(kind, parsed)
    clash = format_problem(options)
    problems += needed + ([f"{kind}: format: {clash}"] if clash else [])
    if problems:
        raise OptionError("; ".join(problems))
    return options
