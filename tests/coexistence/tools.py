"""The environment the tools live in: made once for each Python and list of tools, autoprof in it as pip puts it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = REPOSITORY / ".coexistence"
STARTUP = REPOSITORY / "autoprof" / "startup"
REQUIREMENTS = (
    "pyyaml>=6.0",
    "pyinstrument>=5.0",
    "psutil>=5.9",
    "blinker>=1.7",
    "beartype>=0.18",
    "coverage>=7.6",
    "ddtrace>=3.0",
    "debugpy>=1.8",
    "flask>=3.0",
    "opentelemetry-distro>=0.50b0",
    "opentelemetry-instrumentation-flask>=0.50b0",
    "pytest>=8.2",
    "sentry-sdk>=2.20",
    "typeguard>=4.3",
    "yappi>=1.6",
)
_STEERING = ("AUTOPROF", "PYTEST", "PYTHON", "VIRTUAL_ENV", "COV", "DD_", "OTEL_", "SENTRY_", "ARENA_")


def environment() -> dict[str, str]:
    """Return the environment variables of a run, without what steers Python or one of the tools."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_STEERING)}
    return kept | {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1"}


def prepare(python: str = sys.executable) -> Path:
    """Make the environment of an interpreter, once for all processes; return its folder.

    Raises:
        subprocess.CalledProcessError: pip could not install the tools.
    """
    ask = "import platform, sys; print(platform.python_version()); print(sys._base_executable)"
    said = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True, env=environment())
    version, base = said.stdout.splitlines()
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", "utf-8")
    folder = CACHE / version
    stamp, wanted = folder / "made-from", "\n".join((base, *REQUIREMENTS))
    with (CACHE / f"{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text("utf-8") != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            subprocess.run([base, "-m", "venv", str(folder)], check=True, env=environment())
            pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
            subprocess.run([*pip, "install", "-q", *REQUIREMENTS], check=True, env=environment())
            stamp.write_text(wanted, "utf-8")
        _put_autoprof_in(folder)
    return folder


def _put_autoprof_in(folder: Path) -> None:
    (site,) = folder.glob("lib/python3.*/site-packages")
    # A copy: in site-packages debuggers know it for a library, and do not step into it.
    shutil.rmtree(site / "autoprof", ignore_errors=True)
    shutil.copytree(REPOSITORY / "autoprof", site / "autoprof", ignore=lambda *_: {"__pycache__"})
    for name in ("zzz_autoprof.pth", "zzz_autoprof.start", "autoprof_boot.py"):
        (site / name).write_bytes((STARTUP / name).read_bytes())


def version_of(folder: Path, distribution: str) -> str:
    """Return the installed version of a distribution; "" for a part of Python itself."""
    if not distribution:
        return ""
    (site,) = folder.glob("lib/python3.*/site-packages")
    (found,) = site.glob(f"{distribution.replace('-', '_')}-*.dist-info")
    return found.name.removesuffix(".dist-info").rpartition("-")[2]
