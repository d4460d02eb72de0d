"""The JSON schema of the policy file, for editors and other programs: made from the tables of `autoprof.schema`.

What each key takes is found by asking its parser, so that the two can't drift apart. The schema lets everything through
that autoprof reads; what it can't say (bounds of durations written with a unit, globs that can never match) is left to
`autoprof check`.

Source: JSON Schema 2020-12, https://json-schema.org/draft/2020-12.
"""

from __future__ import annotations

from autoprof import schema
from autoprof.errors import BadValue
from autoprof.units import DURATION_UNITS, FALSE_WORDS, MICRO_SIGNS, SIZE_UNITS, TRUE_WORDS
from autoprof.values import MAX_METADATA_KEYS, OFF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from autoprof.schema import Option

    Schema = dict[str, Any]

_NUMBER = r"[+-]?[0-9][0-9_]*\.?[0-9_]*([eE][+-]?[0-9]+)?|\.[0-9]+"
_VARIABLE = {"type": "string", "pattern": r"\$"}  # ${VAR}: only the environment tells
_SCALAR = {"type": ["string", "number", "boolean"]}
_WORDS = (*schema.STRATEGIES, *schema.PROFILE_FORMATS, *schema.REWRITES)
_GLOB = {"anyOf": [{"type": "string", "pattern": r"^[^:\s]+:[^:\s]+$"}, _VARIABLE]}


def _any_case(words: Iterable[str]) -> str:
    """Return a pattern for words in any case; ECMAScript's regular expressions have no (?i:...) to build on."""
    return "|".join(
        "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in word) for word in words
    )


_TRUTH = rf"^\s*({_any_case((*sorted(TRUE_WORDS), *sorted(FALSE_WORDS)))})\s*$"
_BOOLEAN = {"anyOf": [{"type": "boolean"}, {"enum": [0, 1]}, {"type": "string", "pattern": _TRUTH}]}


def document() -> Schema:
    """Return the schema of a policy file."""
    properties = {option.key: _of(option) for option in schema.SETTINGS}
    store, load, service = (_table(row) for row in (schema.STORE, schema.LOAD, schema.SERVICE))
    properties |= {
        "service": {"anyOf": [_of(schema.SERVICE[0]), service]},
        "store": store,
        "load": {"anyOf": [{"const": False}, {"enum": list(OFF)}, _VARIABLE, load]},
        "exporters": {"type": "array", "items": _exporter()},
        "rules": {"type": "array", "items": _rule()},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "autoprof policy file, version 1",
        "type": "object",
        "properties": {key: properties[key] for key in schema.TOP_KEYS},
        "required": ["version"],
        "additionalProperties": False,
    }


def _rule() -> Schema:
    kinds = list(schema.POLICIES)
    common = {
        "name": _of(schema.NAME),
        "match": _one_or_more(_GLOB),
        "except": {"anyOf": [_GLOB, {"type": "array", "items": _GLOB}]},
        "policy": {"anyOf": [{"enum": kinds}, _VARIABLE]},
        "for": _of(schema.FOR),
    }
    return {
        "type": "object",
        "properties": {"policy": common["policy"]},
        "required": ["match", "policy"],
        "allOf": [_if_kind(kind, common) for kind in kinds],
    }


def _if_kind(kind: str, common: Schema) -> Schema:
    options = schema.POLICIES[kind]
    then = _table(options)
    then["properties"] = {**common, **then["properties"]}
    then["required"] = [option.key for option in options if option.needs]
    return {"if": {"properties": {"policy": {"const": kind}}, "required": ["policy"]}, "then": then}


def _table(options: Iterable[Option]) -> Schema:
    properties = {option.key: _of(option) for option in options}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _exporter() -> Schema:
    options = {"type": "object", "maxProperties": 1, "minProperties": 1}
    named = {name: {"type": ["object", "null"]} for name in schema.EXPORTERS}
    return {
        "anyOf": [
            {"enum": list(schema.EXPORTERS)},
            _VARIABLE,
            {**options, "properties": named, "additionalProperties": False},
        ]
    }


def _of(option: Option) -> Schema:
    """Return what one key takes, with its default as people write it."""
    taken = [_kind(option), _VARIABLE]
    if _reads(option, None):
        taken.append({"type": "null"})
    off = [word for word in ("none", *OFF) if _reads(option, word) and option.parse(word) is None]
    if off:
        taken.append({"enum": off})
    if _reads(option, False) and option.parse(False) is None:  # YAML's `off` and `no`
        taken.append({"const": False})
    found: Schema = {"anyOf": taken}
    if option.default is not None:
        found["default"] = _written(option)
    return found


def _written(option: Option) -> object:
    default = option.default
    if isinstance(default, (bool, dict)) or option.key == "version":
        return default
    if isinstance(default, tuple):
        return list(default)
    return f"{default:04o}" if option.key == "output_mode" else schema.describe_field(option.field, default)


def _kind(option: Option) -> Schema:
    """Return the kind of value a parser reads, by what it lets through and what it does not."""
    if option.key == "version" and not _reads(option, "any"):
        return {"enum": [1, "1"]}
    if _reads(option, {"a": 1}):
        scalar = {"type": ["string", "number", "boolean", "null"]}
        return {"type": "object", "additionalProperties": scalar, "maxProperties": MAX_METADATA_KEYS}
    if _reads(option, ["a"]):
        return _one_or_more(_SCALAR)
    if _reads(option, "any"):
        return _SCALAR
    if _reads(option, "yes"):
        return _BOOLEAN
    if _reads(option, "50%"):
        share = {"type": "string", "pattern": rf"^\s*({_NUMBER})\s*%?\s*$"}
        return {"anyOf": [{"type": "number", "minimum": 0, "maximum": 1}, share]}
    if _reads(option, "1s"):
        return _amount("|".join((*DURATION_UNITS, *MICRO_SIGNS)))
    if _reads(option, "1GB"):
        return _amount(_any_case(SIZE_UNITS))
    if _reads(option, "0600"):
        return {"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^(0[oO])?[0-7]{1,4}$"}]}
    return {"enum": [word for word in dict.fromkeys(_WORDS) if _reads(option, word)]}


def _amount(units: str) -> Schema:
    pattern = rf"^\s*({_NUMBER})\s*({units})?\s*$"
    return {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": pattern}]}


def _one_or_more(item: Schema) -> Schema:
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1}]}


def _reads(option: Option, value: object) -> bool:
    try:
        option.parse(value)
    except BadValue:
        return False
    return True
