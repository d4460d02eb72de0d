"""Reads policies out of texts, in every way they are parsed: what the tests of policy files share."""

from __future__ import annotations

import pytest
import yaml

from autoprof import config, yamlparser
from autoprof.errors import PolicyErrors
from autoprof.policy import Policy

HEAD = "version: 1\nrules:\n"


def loads(text: str | bytes, env: dict[str, str] | None = None, env_name: str | None = None) -> Policy:
    return config.loads(text, filename="p.yaml", env=env or {}, env_name=env_name)


def errors(text: str | bytes, env: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        loads(text, env)
    return [str(error) for error in caught.value.errors]


def options(lines: str, policy: str = "profile", env: dict[str, str] | None = None) -> dict[str, object]:
    text = f"{HEAD}  - match: shop:*\n    policy: {policy}\n" + "".join(
        f"    {line}\n" for line in lines.splitlines()
    )
    return loads(text, env).rules[0].options


PURE = yamlparser.Yaml(yaml.SafeLoader, yaml.events, yaml.MarkedYAMLError)
WAYS = ("parts", "libyaml", "pure")


def parse_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read policies with some modules of PyYAML where the text allows it, with libyaml, or with PyYAML's own parser."""
    if way != "parts":
        monkeypatch.setattr(yamlparser, "suits_parts", lambda text: False)
    if way == "pure":
        monkeypatch.setattr(yamlparser, "whole", lambda: PURE)
        monkeypatch.setattr(yamlparser, "is_fast", lambda: False)


CONTRACT = """\
version: 1
env: ${APP_ENV:-dev}
service: shop                 # labels
programs: ["gunicorn*", "python*"]
output: ./autoprof-data
store: {max_size: 256MB, max_age: 7d}
reload: 1s
budget: 1%
load: {cpu: 80%, memory: 90%}
rewrite: auto
exporters: []
rules:
  - name: payments
    match: shop.payments:*    # "<module glob>:<qualified-name glob>"
    except: shop.payments:_*
    policy: profile_production
    sample_rate: 0.1%
  - match: [shop.db.*:find_*, shop.db.*:Repo.*]
    policy: profile_if_slow
    threshold: 100ms
    rate: 1.0
    env: [dev, prod]
    for: 10m
"""


def vars_of(policy: Policy) -> dict[str, object]:
    names = [
        name for name in Policy.__slots__ if not name.startswith("_") and name not in ("rules", "loaded_ns")
    ]
    return {name: getattr(policy, name) for name in names}
