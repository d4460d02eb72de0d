"""What `.pth`, `.start` and `sitecustomize` call when a Python process starts and AUTOPROF_CONFIG is set.

The session starts as the last step of site initialisation: after every `.pth` file, sitecustomize and
usercustomize, so that what they do (paths, hooks, monkey patches) is done. Only the standard library is
imported before that.
"""

from __future__ import annotations

import os
import sys

from autoprof import program
from autoprof.run import new_run

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, ModuleType

program_name = program.program_name
program_names = program.program_names

_OFF = ("0", "false", "no", "off")
_booted = False


def boot() -> None:
    """Start autoprof when site is done, once per process; never raise."""
    global _booted
    if _booted or not is_wanted():
        return
    _booted = True
    try:
        _at_end_of_site(start)
    except Exception as error:
        _failed(error)


def is_wanted() -> bool:
    """Tell whether the environment asks for autoprof."""
    if not os.environ.get("AUTOPROF_CONFIG"):
        return False
    return os.environ.get("AUTOPROF_ENABLED", "").strip().lower() not in _OFF


def start() -> None:
    """Start the session the environment describes; a failure of ours leaves the program alone.

    With AUTOPROF_STRICT the process ends here with status 2, after one line per error on stderr.
    """
    try:
        if program.is_superfluous():
            return
        fill_environment()
        _report_clash()
        from autoprof.session import start_from_environment

        start_from_environment()
    except Exception as error:
        _failed(error)


def fill_environment() -> None:
    """Fix in `os.environ`, for the children too, what depends on where the application was started."""
    environ = os.environ
    environ["AUTOPROF_CONFIG"] = os.path.abspath(environ["AUTOPROF_CONFIG"])
    run, _, folder = environ.get("AUTOPROF_RUN", "").partition("@")
    if not (run and os.path.isabs(folder)):
        environ["AUTOPROF_RUN"] = f"{new_run()}@{os.getcwd()}"
    environ[program.PROGRAM_VARIABLE] = "/".join(program.program_names())


def run(argv: list[str]) -> int:
    """Do `autoprof run`: become the program; return a status only where that is impossible."""
    from autoprof import launcher

    return launcher.run(argv)


def _at_end_of_site(action: Callable[[], None]) -> None:
    """Call `action` as the last step of `site.main`, at once where that is over or was never under way."""
    site = sys.modules.get("site")
    steps = _steps_under_way(site, sys._getframe(1))
    if site is None or "main" not in steps or "execusercustomize" in steps:
        action()
        return
    names = ["execsitecustomize", "execusercustomize"]
    if "execsitecustomize" in steps:
        if not getattr(site, "ENABLE_USER_SITE", False):
            action()
            return
        del names[0]
    _follow(site, names, action)


def _steps_under_way(site: ModuleType | None, frame: FrameType | None) -> set[str]:
    names = set()
    own = getattr(site, "__dict__", None)
    while frame is not None:
        if frame.f_globals is own:
            names.add(frame.f_code.co_name)
        frame = frame.f_back
    return names


def _follow(site: ModuleType, names: list[str], action: Callable[[], None]) -> None:
    """Call `action` after the last of these functions that site will call; then all are what they were."""
    originals = {name: getattr(site, name) for name in names}

    def step(name: str) -> None:
        try:
            originals[name]()
        finally:
            if name == "execusercustomize" or not getattr(site, "ENABLE_USER_SITE", False):
                for each, ours in steps.items():
                    if getattr(site, each, None) is ours:
                        setattr(site, each, originals[each])
                action()

    steps = {name: lambda name=name: step(name) for name in names}
    for name, ours in steps.items():
        setattr(site, name, ours)


def _report_clash() -> None:
    """Say so when the unrelated distribution `autoprof` has overwritten files of this one."""
    package = sys.modules.get("autoprof")
    if "profile_production" not in getattr(package, "__all__", ()):
        _tell(
            "the distribution 'autoprof' (astronomy) is installed in the same folder and replaced files of "
            "'autoprof-hook'; do this: pip uninstall autoprof, pip install --force-reinstall autoprof-hook"
        )


def _failed(error: Exception) -> None:
    strict = os.environ.get("AUTOPROF_STRICT", "").strip().lower() in ("1", "true", "yes", "on")
    if not strict:
        try:
            from autoprof import guard

            guard.report("start", error)
        except Exception:
            pass
        return
    for each in getattr(error, "errors", None) or (error,):
        text = str(each) or type(each).__name__
        if isinstance(each, OSError):
            text = f"{each.filename or os.environ.get('AUTOPROF_CONFIG')}: {each.strerror or text}"
        _tell(" ".join(text.splitlines()), prefix="")
    # SystemExit inside site is a fatal error of the interpreter with status 1.
    os._exit(2)


def _tell(message: str, prefix: str = "autoprof: ") -> None:
    try:
        sys.stderr.write(f"{prefix}{message}\n")
        sys.stderr.flush()
    except Exception:
        pass
