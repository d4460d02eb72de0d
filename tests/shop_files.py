"""The files of a small shop with a policy, to be started in every way, and what its store then has."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.conftest import Environment

Write = Callable[[Mapping[str, str]], Path]

POLICY = """\
version: 1
output: data
budget: off
load: {cpu: off, memory: off}
rules:
  - match: ["__main__:*", "shop.*:*", "test_shop:*"]
    policy: profile
    rate: 1.0
"""
GO = "from shop.price import price\ndef go(): print(price(2))\n"
SHOP = {
    "policy.yaml": POLICY,
    "shop/__init__.py": "",
    "shop/__main__.py": GO + "go()\n",
    "shop/price.py": "def price(count):\n    return count * 3\n",
    "shop/cli.py": GO + "if __name__ == '__main__':\n    go()\n",
    "app.py": GO + "if __name__ == '__main__':\n    go()\n",
    "console": "#!/usr/bin/env python\n" + GO + "go()\n",
    "test_shop.py": "from shop.price import price\ndef test_price():\n    assert price(2) == 6\n",
}


def calls(environment: Environment, folder: Path) -> dict[str, int]:
    """Return the calls by target of the last run stored in a folder."""
    done = environment.run("-m", "autoprof", "report", str(folder), "--format", "json")
    if done.returncode:
        return {}
    return {row["target"]: row["calls"] for row in json.loads(done.stdout)["probes"]}
