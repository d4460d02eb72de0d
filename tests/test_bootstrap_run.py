"""`autoprof run`: a program is profiled without an installation that Python reads at its start."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, STARTUP, Environment
from tests.shop_files import SHOP, Write, calls

RUN = ["-m", "autoprof", "run"]


def with_path(root: Path, *more: Path | str) -> dict[str, str]:
    """Return the environment of an installation by PYTHONPATH."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), *packages, *map(str, more)])}


@pytest.fixture
def naked(tmp_path: Path) -> Environment:
    """An environment without autoprof."""
    made = Environment(tmp_path / "naked", startup=False)
    (made.site / "dependencies.pth").unlink()
    return made


@pytest.mark.parametrize(
    "arguments",
    [["app.py"], ["-m", "shop.cli"], ["./console"], ["-mshop"], ["--", "app.py"], ["python", "app.py"]],
)
def test_run_with_an_installation_by_path(naked: Environment, write: Write, arguments: list[str]) -> None:
    root = write(SHOP)
    run = naked.run(*RUN, "-c", "policy.yaml", *arguments, cwd=root, env=with_path(root))
    assert (run.stdout, run.stderr, run.returncode) == ("6\n", "", 0)
    done = naked.run("-m", "autoprof", "report", "data", "--format", "json", env=with_path(root), cwd=root)
    assert {row["target"] for row in json.loads(done.stdout)["probes"]} >= {"__main__:go", "shop.price:price"}


@pytest.mark.parametrize(
    ("ending", "status"),
    [("sys.exit(7)", 7), ("1/0", 1), ("os.kill(os.getpid(), 9)", -9), ("os._exit(3)", 3)],
)
def test_run_gives_the_status_of_the_program(
    environment: Environment, write: Write, ending: str, status: int
) -> None:
    root = write({**SHOP, "end.py": f"import os, sys\n{ending}\n"})
    assert environment.run(*RUN, "-c", "policy.yaml", "end.py", cwd=root).returncode == status


def test_run_keeps_python_path_and_sitecustomize(naked: Environment, write: Write) -> None:
    look = (
        "import os, sys, subprocess\n"
        "print(os.environ['PYTHONPATH'].split(os.pathsep)[1:], [p for p in sys.path if 'startup' in p],\n"
        "      sys.modules['sitecustomize'].WHO, 'autoprof.session' in sys.modules, flush=True)\n"
        "if len(sys.argv) == 1: subprocess.run([sys.executable, 'look.py', 'child'])\n"
    )
    root = write({**SHOP, "look.py": look, "mine/sitecustomize.py": "WHO = 'user'\n"})
    env = with_path(root, root / "mine", "", "last")
    run = naked.run(*RUN, "-c", "policy.yaml", "look.py", cwd=root, env=env)
    first, second = run.stdout.splitlines()
    assert first == second == f"{env['PYTHONPATH'].split(os.pathsep)} [] user True"
    nested = naked.run(*RUN, "-c", "policy.yaml", "python", *RUN, "look.py", cwd=root, env=env)
    assert nested.stdout == run.stdout


def test_run_adds_no_empty_item(environment: Environment, write: Write) -> None:
    root = write(
        {**SHOP, "look.py": "import os, sys\nprint(repr(os.environ['PYTHONPATH']), '' in sys.path)\n"}
    )
    for paths in ({}, {"PYTHONPATH": ""}):
        run = environment.run(*RUN, "-c", "policy.yaml", "look.py", cwd=root, env=paths)
        assert run.stdout == f"{str(STARTUP / 'site')!r} False\n"


def test_run_chains_a_broken_sitecustomize(naked: Environment, write: Write) -> None:
    root = write({**SHOP, "mine/sitecustomize.py": "raise ValueError('mine')\n"})
    run = naked.run(*RUN, "-c", "policy.yaml", "app.py", cwd=root, env=with_path(root, root / "mine"))
    assert run.stdout == "6\n" and "ValueError: mine" in run.stderr
    assert (root / "data").exists()


def test_run_does_nothing_under_another_interpreter(
    naked: Environment, bare_environment: Environment, write: Write
) -> None:
    look = "import sys\nprint('autoprof' in sys.modules, [p for p in sys.path if 'startup' in p])\n"
    start = f"import subprocess\nsubprocess.run([{bare_environment.python!r}, 'look.py'])\n"
    root = write({**SHOP, "look.py": look, "start.py": start})
    run = naked.run(*RUN, "-c", "policy.yaml", "start.py", cwd=root, env=with_path(root))
    assert run.stdout == "False []\n"


def test_the_sitecustomize_is_for_any_python() -> None:
    """Old interpreters import it too: nothing in it that Python 2.7 or 3.6 cannot compile."""
    text = (STARTUP / "site" / "sitecustomize.py").read_text()
    assert not re.search(r"\bf['\"]|:=|\bmatch\b|async |-> ", text)
    text.encode("ascii")


@pytest.mark.parametrize(
    ("python", "command", "inert"),
    [
        (["-S"], ["app.py"], "-S"),
        (["-I"], ["app.py"], "-I"),
        (["-E"], ["app.py"], "-E"),
        ([], ["python", "-S", "app.py"], "-S"),
        ([], ["python", "-E", "app.py"], "-E"),
        ([], ["python", "-B", "app.py"], ""),
    ],
)
def test_run_says_when_it_is_inert(
    naked: Environment, write: Write, python: list[str], command: list[str], inert: str
) -> None:
    """The launcher and what it needs lie in a folder of their own, as `pip install --target` makes it."""
    root = write(SHOP)
    vendored = root / "vendored"
    vendored.mkdir()
    (vendored / "autoprof").symlink_to(REPOSITORY / "autoprof")
    for name in ("yaml", "blinker", "psutil", "pyinstrument"):
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None
        (vendored / name).symlink_to(Path(found.origin).parent)
    text = f"import sys; sys.path.insert(0, {str(vendored)!r})\n"
    start = f"{text}from autoprof.bootstrap import run\nsys.exit(run(sys.argv[1:]))"
    (root / "app.py").write_text(f"import sys; sys.path.insert(0, {str(root)!r})\n{SHOP['app.py']}")
    run = naked.run(*python, "-c", start, "-c", "policy.yaml", *command, cwd=root)
    assert run.stdout == "6\n"
    assert run.stderr.count("\n") == (1 if inert else 0), run.stderr
    assert ("without profiling" in run.stderr) == bool(inert) and inert in run.stderr
    assert (root / "data").exists() != bool(inert)


def test_run_with_an_installation_is_not_inert(environment: Environment, write: Write) -> None:
    root = write(SHOP)
    run = environment.run("-E", *RUN, "-c", "policy.yaml", "app.py", cwd=root)
    assert (run.stdout, run.stderr) == ("6\n", "")
    assert calls(environment, root / "data")["__main__:go"] == 1


@pytest.mark.parametrize(
    "arguments",
    [[], ["-c"], ["-c", "policy.yaml"], ["app.py"], ["--what", "app.py"], ["-c", "policy.yaml", "-m"]],
)
def test_run_usage(environment: Environment, write: Write, arguments: list[str]) -> None:
    run = environment.run(*RUN, *arguments, cwd=write(SHOP))
    assert run.returncode == 2 and run.stdout == ""
    assert run.stderr.startswith("autoprof run: ") and run.stderr.count("\n") == 1


def test_run_switched_off(environment: Environment, write: Write) -> None:
    root = write(SHOP)
    run = environment.run(*RUN, "-c", "policy.yaml", "app.py", cwd=root, env={"AUTOPROF_ENABLED": "0"})
    assert (run.stdout, run.stderr) == ("6\n", "") and not (root / "data").exists()


def test_run_a_console_script_by_name(environment: Environment, write: Write) -> None:
    root = write(SHOP)
    script = environment.folder / "bin" / "shop-by-name"
    script.write_text(
        f"#!{environment.python}\nimport sys\nsys.path.insert(0, {str(root)!r})\n" + SHOP["app.py"]
    )
    script.chmod(0o755)
    run = environment.run(*RUN, "-c", "policy.yaml", "-e", "test", "shop-by-name", cwd=root)
    script.unlink()
    assert (run.stdout, run.stderr) == ("6\n", "")
    assert calls(environment, root / "data")["__main__:go"] == 1
