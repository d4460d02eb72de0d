"""One environment variable is enough: every way to start a program, and what happens when it goes wrong."""

from __future__ import annotations

import json
import re
import sys
import time
import zipapp
from pathlib import Path

import pytest

from autoprof import bootstrap, program
from tests.conftest import STARTUP, Environment
from tests.shop_files import POLICY, SHOP, Write, calls


@pytest.mark.parametrize(
    ("arguments", "go"),
    [
        (["app.py"], "__main__:go"),
        (["-m", "shop"], "__main__:go"),
        (["-m", "shop.cli"], "__main__:go"),
        (["-m", "app"], "__main__:go"),
        (["console"], "__main__:go"),
        (["folder"], "__main__:go"),
        (["app.pyz"], "__main__:go"),
        (["-c", "from shop.cli import go; go()"], "shop.cli:go"),
        (["-I", "isolated.py"], "__main__:go"),
        (["-E", "app.py"], "__main__:go"),
        (["-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"], "test_shop:test_price"),
    ],
)
def test_every_way_to_start(environment: Environment, write: Write, arguments: list[str], go: str) -> None:
    folder = "import sys\nsys.path.insert(0, {!r})\n" + SHOP["app.py"]
    root = write(SHOP)
    write({"folder/__main__.py": folder.format(str(root)), "isolated.py": folder.format(str(root))})
    zipapp.create_archive(root / "folder", root / "app.pyz")
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    run = environment.run(*arguments, cwd=root, env=env)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert run.stdout == "6\n" or "1 passed" in run.stdout
    found = calls(environment, root / "data")
    assert found[go] == 1 and found["shop.price:price"] == 1


def test_standard_input_and_the_prompt(environment: Environment, write: Write) -> None:
    root = write(SHOP)
    env = {"AUTOPROF_CONFIG": "policy.yaml"}
    text = "from shop.price import price\nprint(price(2))\n"
    for arguments in ([], ["-"], ["-i"]):
        run = environment.run(*arguments, cwd=root, env=env, input=text)
        assert "6\n" in run.stdout and run.returncode == 0
        assert calls(environment, root / "data")["shop.price:price"] == 1


CHILDREN = """
import multiprocessing, os, subprocess, sys
from shop.price import price
def work(count):
    return price(count)
def main(kind):
    if kind == "subprocess":
        subprocess.run([sys.executable, "app.py"], check=True)
    elif kind == "os.fork":
        if os.fork() == 0:
            work(1)
            sys.exit(0)
        os.wait()
    else:
        with multiprocessing.get_context(kind).Pool(2) as pool:
            print(sum(pool.map(work, range(10))))
            pool.close()
            pool.join()
if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "subprocess", "os.fork"])
def test_children(environment: Environment, write: Write, kind: str) -> None:
    root = write({**SHOP, "parent.py": CHILDREN})
    (root / "elsewhere").mkdir()
    run = environment.run("parent.py", kind, cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"}, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    found = calls(environment, root / "data")
    if kind == "subprocess":
        assert (found["__main__:go"], found["shop.price:price"]) == (1, 1)
    elif kind == "os.fork":
        assert (found["__main__:work"], found["shop.price:price"]) == (1, 1)
    else:
        assert (found["__main__:work"], found["shop.price:price"]) == (10, 10)


def test_unset_and_switched_off_leave_nothing(environment: Environment, write: Write) -> None:
    root = write(
        {**SHOP, "look.py": "import sys\nprint([m for m in sys.modules if 'autoprof' in m], sys.meta_path)\n"}
    )
    plain = environment.run("-S", "look.py", cwd=root).stdout
    off = [{}, {"AUTOPROF_CONFIG": ""}]
    off += [
        {"AUTOPROF_CONFIG": "policy.yaml", "AUTOPROF_ENABLED": value}
        for value in ("0", "false", "No", " off ")
    ]
    for env in off:
        run = environment.run("look.py", cwd=root, env=env)
        assert run.stderr == ""
        if env.get("AUTOPROF_ENABLED"):
            assert run.stdout.replace("'autoprof_boot'", "") == plain
        else:
            assert run.stdout == plain
    assert not (root / "data").exists()


ORDER = """
import os, sys
def note(what):
    print(what, "autoprof.session" in sys.modules, flush=True)
"""


@pytest.mark.parametrize("user", [True, False])
def test_starts_after_everything_of_site(tmp_path: Path, write: Write, user: bool) -> None:
    """After later `.pth` files and sitecustomize; and site's own functions are what they were."""
    made = Environment(tmp_path / "venv")
    (made.site / "note.py").write_text(ORDER)
    (made.site / "zzzz_later.pth").write_text("import note; note.note('pth')\n")
    (made.site / "sitecustomize.py").write_text("import note; note.note('sitecustomize')\n")
    if user:
        config = made.folder / "pyvenv.cfg"
        text = re.sub("(?m)^(include-system-site-packages = ).*$", r"\1true", config.read_text())
        config.write_text(text)
    names = "site.execsitecustomize.__name__, site.execusercustomize.__name__, site.ENABLE_USER_SITE"
    root = write({**SHOP, "look.py": f"import note, site\nnote.note('program')\nprint({names})\n"})
    home = tmp_path / "home"
    folder = home / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "usercustomize.py").write_text("import note; note.note('usercustomize')\n")
    env = {"AUTOPROF_CONFIG": "policy.yaml", "PYTHONUSERBASE": str(home)}
    lines = made.run("look.py", cwd=root, env=env).stdout.splitlines()
    assert set(lines[:-2]) == {"pth False", "sitecustomize False", *(["usercustomize False"] if user else [])}
    assert lines[-2:] == ["program True", f"execsitecustomize execusercustomize {user}"]


def test_a_broken_sitecustomize_is_reported_as_always(tmp_path: Path, write: Write) -> None:
    made = Environment(tmp_path / "venv")
    (made.site / "sitecustomize.py").write_text("1/0\n")
    root = write(SHOP)
    plain = made.run("app.py", cwd=root)
    ours = made.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (ours.stdout, ours.stderr) == (plain.stdout, plain.stderr)
    assert calls(made, root / "data")["__main__:go"] == 1


def test_late_addsitedir_starts_at_once(
    bare_environment: Environment, environment: Environment, write: Write
) -> None:
    text = f"import site\nsite.addsitedir({str(environment.site)!r})\nsite.addsitedir({str(environment.site)!r})\n"
    root = write({**SHOP, "late.py": text + "import shop.cli\nshop.cli.go()\n"})
    run = bare_environment.run("late.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.stderr) == ("6\n", "")
    assert calls(environment, root / "data")["shop.cli:go"] == 1


def test_environment_is_fixed_once(environment: Environment, write: Write) -> None:
    look = "import os, json\nprint(json.dumps({k: v for k, v in os.environ.items() if k.startswith('AUTOPROF_')}), flush=True)\n"
    start = "import os, subprocess, sys\nos.chdir('sub')\nsubprocess.run([sys.executable, '../look.py'])\n"
    root = write({**SHOP, "look.py": look, "start.py": look + start, "sub/x": ""})
    run = environment.run("start.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    first, second = map(json.loads, run.stdout.splitlines())
    assert first["AUTOPROF_CONFIG"] == second["AUTOPROF_CONFIG"] == str(root / "policy.yaml")
    assert first["AUTOPROF_RUN"] == second["AUTOPROF_RUN"]
    run_id, _, folder = first["AUTOPROF_RUN"].partition("@")
    assert folder == str(root) and re.fullmatch(r"\d{8}T\d{6}-\d+-[0-9a-f]{6}", run_id)
    assert first["AUTOPROF_PROGRAM"] == "start.py/python" and second["AUTOPROF_PROGRAM"] == "look.py/python"


@pytest.mark.parametrize(
    ("text", "strict_lines"),
    [
        ("version: 1\nrules: [{match: 'a:b', policy: profil, rate: 2}]\nnonsense: 1\n", 3),
        ("", 1),
        ("\x00\x01", 1),
        (None, 1),
    ],
)
def test_a_bad_policy(environment: Environment, write: Write, text: str | None, strict_lines: int) -> None:
    root = write({**SHOP, "policy.yaml": text or ""})
    if text is None:
        (root / "policy.yaml").unlink()
    run = environment.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.returncode) == ("6\n", 0)
    assert "autoprof stays off" in run.stderr and "Traceback" not in run.stderr
    strict = environment.run(
        "app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml", "AUTOPROF_STRICT": "1"}
    )
    assert (strict.stdout, strict.returncode) == ("", 2)
    lines = strict.stderr.splitlines()
    assert len(lines) >= strict_lines and all("policy.yaml" in line for line in lines), strict.stderr


def test_a_failure_of_ours_leaves_the_program_alone(environment: Environment, write: Write) -> None:
    """A session that cannot even be imported, seen as a module of that name in front of ours."""
    broken = "import sys\nsys.modules['autoprof.session'] = None\n"
    root = write({**SHOP, "first/sitecustomize.py": broken})
    env = {"AUTOPROF_CONFIG": "policy.yaml", "PYTHONPATH": str(root / "first")}
    run = environment.run("app.py", cwd=root, env=env)
    assert (run.stdout, run.returncode) == ("6\n", 0)
    assert "Traceback" not in run.stderr and "internal error in start" in run.stderr
    strict = environment.run("app.py", cwd=root, env={**env, "AUTOPROF_STRICT": "1"})
    assert (strict.stdout, strict.returncode) == ("", 2)
    assert len(strict.stderr.splitlines()) == 1


def test_the_package_is_gone(tmp_path: Path, write: Write) -> None:
    made = Environment(tmp_path / "venv")
    (made.site / "dependencies.pth").unlink()
    root = write(SHOP)
    run = made.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.stderr, run.returncode) == ("6\n", "", 0)
    (made.site / "autoprof_boot.py").unlink()
    run = made.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.stderr, run.returncode) == ("6\n", "", 0)


def test_the_other_distribution_of_the_name(tmp_path: Path, write: Write) -> None:
    made = Environment(tmp_path / "venv")
    (made.site / "dependencies.pth").unlink()
    (made.site / "autoprof").mkdir()
    (made.site / "autoprof" / "__init__.py").write_text("")
    root = write(SHOP)
    run = made.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.returncode) == ("6\n", 0)
    assert "autoprof-hook" in run.stderr and len(run.stderr.splitlines()) == 1


def test_programs(environment: Environment, write: Write) -> None:
    root = write(SHOP)
    for glob, reached in (("app.py", True), ("app*", True), ("gunicorn*", False)):
        (root / "policy.yaml").write_text(POLICY.replace("rules:", f'programs: ["{glob}"]\nrules:'))
        run = environment.run("app.py", cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"})
        assert (run.stdout, run.stderr) == ("6\n", "")
        assert (root / "data").exists() == reached
        environment.run("-c", "import shutil; shutil.rmtree('data', True)", cwd=root)


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["python", "app.py", "-m", "x"], ("app.py", "python")),
        (["/usr/bin/python3", "-X", "dev", "-Wignore", "-Bs", "/srv/app.py"], ("app.py", "python3")),
        (["python", "/venv/bin/gunicorn", "shop:app"], ("gunicorn",)),
        (["python", "-m", "shop.worker", "-c", "x"], ("shop.worker", "python")),
        (["python", "-mshop"], ("shop", "python")),
        (["python", "-Im", "shop"], ("shop", "python")),
        (["python3.12", "-c", "pass", "app.py"], ("python3.12",)),
        (["python"], ("python",)),
        (["python", "-"], ("python",)),
        (["python", "--check-hash-based-pycs", "always", "app.py"], ("app.py", "python")),
        (["python", "service/"], ("service",)),
        (["python", "app.pyz"], ("app.pyz", "python")),
        (["python", "gunicorn.exe"], ("gunicorn",)),
    ],
)
def test_names_of_programs(monkeypatch: pytest.MonkeyPatch, argv: list[str], names: tuple[str, ...]) -> None:
    monkeypatch.setattr(sys, "orig_argv", argv)
    assert bootstrap.program_names() == names
    assert bootstrap.program_name() == names[0]


def test_names_of_helper_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-c", "from multiprocessing.spawn import spawn_main; x()"]
    )
    assert bootstrap.program_names() == ("python",)
    with monkeypatch.context() as patch:
        patch.setenv(program.PROGRAM_VARIABLE, "shop/python3")
        assert bootstrap.program_names() == ("shop", "python3")
    monkeypatch.setattr(
        sys, "orig_argv", ["python", "-c", "from multiprocessing.resource_tracker import main"]
    )
    assert program.is_superfluous()
    monkeypatch.setattr(sys, "orig_argv", [])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/uwsgi"])
    assert bootstrap.program_name() == "uwsgi"


@pytest.mark.parametrize("name", ["zzz_autoprof.pth"])
def test_the_line_costs_next_to_nothing(name: str) -> None:
    line = (STARTUP / name).read_text()
    assert line.startswith("import ") and line.count("\n") == 1
    best = float("inf")
    for _ in range(200):
        start = time.perf_counter_ns()
        exec(line)
        best = min(best, time.perf_counter_ns() - start)
    assert best < 200_000


def test_the_start_file_names_a_callable() -> None:
    module, _, name = (STARTUP / "zzz_autoprof.start").read_text().strip().partition(":")
    text = (STARTUP / f"{module}.py").read_text()
    assert f"def {name}()" in text
    top = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
    assert top == ["import os"]


def test_only_the_standard_library_before_the_session(environment: Environment, write: Write) -> None:
    """What is loaded in a process whose policy matches nothing."""
    root = write({**SHOP, "policy.yaml": "version: 1\nrules: [{match: 'nowhere:*', policy: profile}]\n"})
    text = "import sys; print(*sorted(sys.modules))"
    loaded = set(environment.run("-c", text, cwd=root, env={"AUTOPROF_CONFIG": "policy.yaml"}).stdout.split())
    heavy = {
        "ssl",
        "asyncio",
        "socket",
        "pyinstrument",
        "psutil",
        "blinker",
        "yaml",
        "re",
        "logging",
        "sqlite3",
    }
    assert "autoprof.session" in loaded
    assert not heavy & loaded
