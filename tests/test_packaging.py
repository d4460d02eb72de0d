"""`pip install .` and `pip install -e .` in fresh environments: what lies there, what works, what uninstalling leaves."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, STARTUP, Environment

BESIDE = ("autoprof_boot.py", "zzz_autoprof.pth", "zzz_autoprof.start")


@pytest.fixture(scope="module", params=["plain", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment after `pip install`; its dependencies are those of the running one."""
    made = Environment(tmp_path_factory.mktemp(request.param) / "venv", startup=False)
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (made.site / "dependencies.pth").write_text("\n".join(packages) + "\n")
    subprocess.run([made.python, "-m", "ensurepip"], check=True, capture_output=True)
    where = ["-e", str(REPOSITORY)] if request.param == "editable" else [str(REPOSITORY)]
    pip = [made.python, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--ignore-installed", *where], capture_output=True, text=True, timeout=300)
    if done.returncode and "hatchling" in done.stderr:
        pytest.skip("needs a package index for the build back end")
    assert done.returncode == 0, done.stderr
    return made


def test_files_and_metadata(installed: Environment) -> None:
    for name in BESIDE:
        assert (installed.site / name).read_bytes() == (STARTUP / name).read_bytes()
    assert sorted(path.name for path in installed.site.glob("*.pth"))[-1] == "zzz_autoprof.pth"
    (record,) = installed.site.glob("autoprof_hook-*.dist-info")
    listed = (record / "RECORD").read_text()
    assert all(name in listed for name in BESIDE)
    assert "autoprof = autoprof.cli:main" in (record / "entry_points.txt").read_text()
    assert list(record.rglob("LICENSE"))
    where = installed.run("-c", "import autoprof; print(autoprof.__file__)").stdout.strip()
    folder = Path(where).parent
    assert (folder / "py.typed").exists()
    assert (folder / "startup" / "site" / "sitecustomize.py").exists()


def test_it_works_by_the_variable_alone(installed: Environment, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(
        "version: 1\noutput: data\nrules: [{match: '__main__:*', policy: profile, rate: 1.0}]\n"
    )
    (tmp_path / "app.py").write_text("def f():\n    print('ran')\nf()\n")
    run = installed.run("app.py", cwd=tmp_path, env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.stderr) == ("ran\n", "")
    command = str(installed.folder / "bin" / "autoprof")
    report = installed.run("report", "data", "--format", "text", executable=command, cwd=tmp_path)
    assert "__main__:f" in report.stdout
    run = installed.run("run", "-c", "policy.yaml", "app.py", executable=command, cwd=tmp_path)
    assert (run.stdout, run.stderr, run.returncode) == ("ran\n", "", 0)


def test_zz_uninstalling_leaves_nothing(installed: Environment) -> None:
    """The last test of the module: the environment has no autoprof afterwards."""
    pip = [installed.python, "-m", "pip", "uninstall", "-q", "-y", "autoprof-hook"]
    subprocess.run(pip, check=True, capture_output=True)
    left = [str(path) for path in installed.site.rglob("*autoprof*")]
    assert left == []
    run = installed.run("-c", "print(1)", env={"AUTOPROF_CONFIG": "policy.yaml"})
    assert (run.stdout, run.stderr) == ("1\n", "")


def test_versions_agree() -> None:
    import autoprof

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["version"] == autoprof.__version__
    assert (project["name"], project["requires-python"]) == ("autoprof-hook", ">=3.11")
