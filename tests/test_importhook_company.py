"""The import hook in company: pytest's assertion rewriting, typeguard, beartype, coverage, a debugger."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import Environment

Write = Callable[[Mapping[str, str]], Path]

TESTED = {
    "shop/__init__.py": "",
    "shop/price.py": 'def price(count: int) -> str:\n    return "PLAIN"\n',
    "tests_of_shop/conftest.py": (
        "import pytest\ndef name():\n    return 'PLAIN'\n@pytest.fixture\ndef kind():\n    return name()\n"
    ),
    "tests_of_shop/test_price.py": (
        "from shop.price import price\n"
        "def helper():\n    return 'PLAIN'\n"
        "def test_rewritten(kind):\n    print('seen:', price(1), helper(), kind)\n"
        "    assert helper() == price(1) + 'x'\n"
    ),
}


@pytest.mark.parametrize("backend", ["splice", "decorate"])
@pytest.mark.parametrize("mode", ["prepend", "importlib"])
def test_pytest_keeps_its_assertions(
    hooked_environment: Environment, write: Write, mode: str, backend: str
) -> None:
    """Test modules and conftest files, which pytest executes itself, are reached too."""
    root = write(TESTED)
    arguments = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--import-mode={mode}",
        "tests_of_shop",
        "-rN",
    ]
    env = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    plain = hooked_environment.run(*arguments, cwd=root, env=env)
    hook = {"FAKE_COVERS": "shop,tests_of_shop,test_price,conftest", "FAKE_BACKEND": backend}
    hooked = hooked_environment.run(*arguments, cwd=root, env={**env, **hook})
    assert "seen: PLAIN PLAIN PLAIN" in plain.stdout
    assert "seen: REWRITTEN REWRITTEN REWRITTEN" in hooked.stdout
    assert "assert 'PLAIN' == 'PLAINx'" in plain.stdout
    assert "assert 'REWRITTEN' == 'REWRITTENx'" in hooked.stdout
    assert (hooked.stderr, hooked.returncode) == (plain.stderr, plain.returncode)


TYPEGUARD = """

from typeguard import install_import_hook
install_import_hook("shop")
import shop.price
print(shop.price.price(1), type(shop.price.__loader__).__name__, sorted(vars(shop.price.__loader__)))
try:
    shop.price.price("no")
except Exception as error:
    print(type(error).__name__)
"""
BEARTYPE = """
from beartype.claw import beartype_packages
beartype_packages(("shop",))
import shop.price
print(shop.price.price(1), type(shop.price.__loader__).__name__, sorted(vars(shop.price.__loader__)))
try:
    shop.price.price("no")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("backend", ["splice", "decorate"])
@pytest.mark.parametrize("name", ["typeguard", "beartype"])
def test_type_checkers_go_on_checking(
    hooked_environment: Environment, write: Write, name: str, backend: str
) -> None:
    pytest.importorskip(name)
    text = TYPEGUARD if name == "typeguard" else BEARTYPE
    root = write({**TESTED, "app.py": text})
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    plain = hooked_environment.run("app.py", cwd=root, env=env)
    hooked = hooked_environment.run(
        "app.py", cwd=root, env={**env, "FAKE_COVERS": "shop,__main__", "FAKE_BACKEND": backend}
    )
    assert "PLAIN" in plain.stdout and ("Error" in plain.stdout or "Violation" in plain.stdout), plain.stderr
    assert "REWRITTEN" in hooked.stdout, hooked.stderr
    assert hooked.stdout.replace("REWRITTEN", "PLAIN") == plain.stdout
    assert hooked.stderr == plain.stderr


@pytest.mark.parametrize("core", ["ctrace", "pytrace", "sysmon"])
def test_coverage_counts_the_same_lines(hooked_environment: Environment, write: Write, core: str) -> None:
    root = write({**TESTED, "app.py": "from shop.price import price\nif True:\n    print(price(1))\n"})
    env = {"COVERAGE_CORE": core, "PYTHONDONTWRITEBYTECODE": "1"}

    def covered(**more: str) -> tuple[object, str, str]:
        start = ["-W", "ignore", "-m", "coverage"]
        run = hooked_environment.run(*start, "run", "--branch", "app.py", cwd=root, env={**env, **more})
        hooked_environment.run(*start, "json", "-q", "-o", "out.json", cwd=root, env=env)
        files = json.loads((root / "out.json").read_text())["files"]
        lines = {
            name: (each["executed_lines"], each.get("executed_branches"))
            for name, each in files.items()
            if not name.startswith("/")  # not autoprof itself, which the tests do not install
        }
        return lines, run.stdout, run.stderr

    plain, hooked = covered(), covered(FAKE_COVERS="shop,__main__")
    assert plain[0] == hooked[0]
    assert plain[1:] == ("PLAIN\n", plain[2])
    assert hooked[1:] == ("REWRITTEN\n", plain[2])


@pytest.mark.parametrize("tool", ["cProfile", "trace", "pdb", "timeit", "unittest"])
def test_tools_that_run_programs(hooked_environment: Environment, write: Write, tool: str) -> None:
    """They compile `__main__` themselves, out of our reach, and work; what the program imports is reached."""
    root = write(
        {
            **TESTED,
            "app.py": "from shop.price import price\nprint(price(1))\n",
            "test_app.py": "import unittest, shop.price\nclass T(unittest.TestCase):\n"
            "    def test(self): print(shop.price.price(1))\n",
        }
    )
    arguments = {
        "cProfile": ["-m", "cProfile", "-o", "out", "app.py"],
        "trace": ["-m", "trace", "--trackcalls", "app.py"],
        "pdb": ["-m", "pdb", "-c", "continue", "-c", "quit", "app.py"],
        "timeit": [
            "-m",
            "timeit",
            "-n",
            "1",
            "-r",
            "1",
            "-s",
            "import shop.price",
            "print(shop.price.price(1))",
        ],
        "unittest": ["-m", "unittest", "test_app"],
    }[tool]
    env = {"PYTHONDONTWRITEBYTECODE": "1"}
    plain = hooked_environment.run(*arguments, cwd=root, env=env)
    hooked = hooked_environment.run(*arguments, cwd=root, env={**env, "FAKE_COVERS": "shop"})
    assert "PLAIN" in plain.stdout and "REWRITTEN" in hooked.stdout, hooked.stderr
    assert hooked.returncode == plain.returncode
