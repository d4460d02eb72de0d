"""The command `autoprof`.

Exit status: 0 done; 1 a negative answer or no data; 2 usage; of `run`: the program's own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from autoprof.errors import Ambiguous, AutoprofError, PolicyErrors, printable
from autoprof.terminal import Progress, to_stdout, write_file
from autoprof.units import parse_duration_ns, parse_share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from autoprof.store_reader import StoreReader
    from autoprof.store_records import ReportData

DONE, NEGATIVE, USAGE = 0, 1, 2
_FORMATS = ("html", "text", "json", "speedscope", "pprof", "collapsed", "svg")
_OF_STACKS = frozenset({"speedscope", "collapsed", "svg"})
_LATER = {
    "top": "live view",
    "diff": "difference of two profiles",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; whatever happens, one line on stderr and no traceback."""
    given = list(sys.argv[1:] if argv is None else argv)
    try:
        if given[:1] == ["run"]:
            from autoprof import bootstrap

            return bootstrap.run(given[1:])
        _stay_unmeasured()
        options = _parser().parse_args(given)
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except Ambiguous as problem:
        return _fail(str(problem), USAGE)
    except AutoprofError as problem:
        return _fail(str(problem), NEGATIVE)
    except BrokenPipeError:  # the reader (`| head`) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except KeyboardInterrupt:
        return 130
    except Exception as problem:
        if os.environ.get("AUTOPROF_STRICT") == "1":
            raise
        return _fail(f"internal error, please report it: {type(problem).__name__}: {problem}", USAGE)


def _stay_unmeasured() -> None:
    """End the session that AUTOPROF_CONFIG started here: a report must not become the last run."""
    session = sys.modules.get("autoprof.session")
    if session is not None:
        session.stop()


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"{self.prog}: {printable(message)}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="autoprof",
        description="Profile Python programs in production, by a policy file.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=lambda _: parser.error("no command given"))
    commands = parser.add_subparsers(metavar="COMMAND", parser_class=_Parser)

    def add(name: str, command: Callable[[argparse.Namespace], int], about: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=about, description=about.capitalize() + ".", allow_abbrev=False
        )
        made.set_defaults(command=command)
        return made

    add("run", _run_help, "run a program with autoprof: run [-c FILE] [-e ENV] (SCRIPT | -m MODULE) ARGS...")
    check = add("check", _check, "check a policy file")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--env", metavar="E", help="the environment to check it for")
    check.add_argument(
        "--against", metavar="MODULE", nargs="+", default=[], help="say which rules match nothing there"
    )
    explain = add("explain", _explain, "say what one function gets by a policy file, and why")
    explain.add_argument("file", metavar="FILE")
    explain.add_argument("target", metavar="TARGET", help="module:qualname")
    explain.add_argument("--env", metavar="E", help="the environment to explain it for")
    explain.add_argument(
        "--data", metavar="DIR", help="output folder with the last run (the policy's by default)"
    )
    plan = add("plan", _plan, "list what a policy file would instrument in modules, from their source")
    plan.add_argument("file", metavar="FILE")
    plan.add_argument("modules", metavar="MODULE", nargs="+")
    plan.add_argument("--env", metavar="E", help="the environment to plan for")
    status = add("status", _status, "show the processes and probes of the last run")
    status.add_argument("folder", metavar="DIR", nargs="?", help="output folder")
    _add_report(add("report", _report, "report what was measured"))
    _add_compare(add("compare", _compare, "say whether function B is faster than function A"))
    add("doctor", _doctor, "say whether and how autoprof works here")
    add("schema", _schema, "print the JSON schema of the policy file, for editors")
    for name, what in _LATER.items():
        add(name, _later(name), f"{what} (not built yet)").add_argument("rest", nargs="*")
    return parser


def _add_report(report: argparse.ArgumentParser) -> None:
    report.add_argument(
        "folders", metavar="DIR", nargs="*", help="output folders (by default that of the policy)"
    )
    report.add_argument(
        "--format", choices=_FORMATS, default="text", help="text by default; pprof is not built yet"
    )
    report.add_argument("--target", metavar="GLOB", help="only these functions, such as 'shop.db.*:find_*'")
    report.add_argument("--run", metavar="RUN", default="last", help="last (default), all, or a run's id")
    report.add_argument("--since", metavar="AGE", type=_age, help="only the last 10m, 1h, 2d")
    report.add_argument("-o", dest="output", metavar="FILE", help="write there instead of to stdout")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    side = "a target or a glob for one, such as 'shop.pricing:*_v1'; RUN/TARGET takes it from another run"
    compare.add_argument("a", metavar="A", help=side)
    compare.add_argument("b", metavar="B", help="the same")
    compare.add_argument("folder", metavar="DIR", nargs="?", help="output folder")
    compare.add_argument("--run", metavar="RUN", default="last", help="last (default), all, or a run's id")
    compare.add_argument("--policy", metavar="KIND", help="only what this policy measured, such as profile")
    compare.add_argument("--format", choices=("text", "json"), default="text", help="text by default")
    compare.add_argument(
        "--difference", metavar="SHARE", type=_difference, default=0.05,
        help="the smallest difference that matters (5%% by default): for how many more calls are needed",
    )  # fmt: skip


def _difference(text: str) -> float:
    try:
        if share := parse_share(text):
            return share
        raise ValueError(f"a difference is above 0, given {text!r}")
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _age(text: str) -> int:
    try:
        return parse_duration_ns(text)
    except ValueError as problem:
        raise argparse.ArgumentTypeError(str(problem)) from None


def _run_help(
    _: argparse.Namespace,
) -> int:  # `run` itself never comes here: what follows it is the program's
    return DONE


def _later(name: str) -> Callable[[argparse.Namespace], int]:
    return lambda _: _fail(f"'{name}' is not built yet ({_LATER[name]})", USAGE)


def _check(options: argparse.Namespace) -> int:
    from autoprof import explain

    env_name = options.env or os.environ.get("AUTOPROF_ENV")
    return _answer(
        explain.check_lines(options.file, env=os.environ, env_name=env_name, against=options.against)
    )


def _explain(options: argparse.Namespace) -> int:
    from autoprof import explain

    env_name = options.env or os.environ.get("AUTOPROF_ENV")
    return _answer(
        explain.explain_lines(
            options.file, options.target, env=os.environ, env_name=env_name, folder=options.data
        )
    )


def _plan(options: argparse.Namespace) -> int:
    from autoprof import explain

    env_name = options.env or os.environ.get("AUTOPROF_ENV")
    return _answer(explain.plan_lines(options.file, options.modules, env=os.environ, env_name=env_name))


def _answer(answer: tuple[int, list[str], list[str]]) -> int:
    status, out, problems = answer
    for line in problems:
        print(printable(line), file=sys.stderr)
    if out:
        to_stdout("".join(f"{printable(line)}\n" for line in out))
    return status


def _schema(_: argparse.Namespace) -> int:
    import json

    from autoprof import json_schema

    to_stdout(json.dumps(json_schema.document(), indent=1) + "\n")
    return DONE


def _doctor(_: argparse.Namespace) -> int:
    from autoprof import doctor

    status, lines = doctor.examine(os.environ)
    return _answer((status, lines, []))


def _status(options: argparse.Namespace) -> int:
    from autoprof.reports import status

    folders = [options.folder or _default_folder()]
    with Progress() as progress:
        reader = _reader(folders, progress)
        data = reader.select("last", stacks=False)
    _tell_notices(data)
    if not data.processes:
        return _fail(f"no data in {_named(folders)}: nothing was measured yet", NEGATIVE)
    to_stdout(status.render(data))
    return DONE


def _compare(options: argparse.Namespace) -> int:
    from autoprof.reports.compare import Chooser, Comparing

    if options.folder and not os.path.isdir(options.folder):
        return _fail(f"compare: no folder {_named([options.folder])}", NEGATIVE)
    folders = [options.folder or _default_folder()]
    with Progress() as progress:
        chooser = Chooser(_reader(folders, progress), _named(folders), options.run, options.policy)
        compared = Comparing(chooser, options.a, options.b, options.difference)
    for notice in compared.notices:
        _warn(notice)
    to_stdout(compared.render(options.format))
    return DONE


def _report(options: argparse.Namespace) -> int:
    if options.format == "pprof":
        return _fail("report: --format pprof is not built yet", USAGE)
    folders = options.folders or [_default_folder()]
    missing = [folder for folder in options.folders if not os.path.isdir(folder)]
    if missing:
        return _fail(f"report: no folder {_named(missing)}", NEGATIVE)
    since_ns = None if options.since is None else time.time_ns() - options.since
    with Progress() as progress:
        reader = _reader(folders, progress)
        data = reader.select(options.run, since_ns=since_ns, target_glob=options.target)
        _tell_notices(data)
        emptiness = _why_empty(data, options, folders, reader)
        if emptiness:
            return _fail(emptiness, NEGATIVE)
        progress.say(f"rendering {options.format}")
        text = _render(data, options.format)
    return _deliver(text, options.output)


def _render(data: ReportData, kind: str) -> str:
    from importlib import import_module

    text: str = import_module(f"autoprof.reports.{kind}").render(data)
    return text


def _why_empty(data: ReportData, options: argparse.Namespace, folders: list[str], reader: StoreReader) -> str:
    """Return why there is nothing to report, as one line; "" when there is something."""
    where = _named(folders)
    if not data.runs:
        known = [info.run for info in reader.runs()]
        if not known:
            return f"no data in {where}: nothing was measured yet"
        return f"no run {options.run!r} in {where}; the last ones are {', '.join(map(printable, known[-3:]))}"
    if not data.probes:
        asked = [f"--target {options.target}"] if options.target else []
        asked += ["--since"] if options.since is not None else []
        limits = f" that {' and '.join(asked)} selects" if asked else ""
        return f"no data in {where}{printable(limits)}: run {printable(data.run)} has none"
    if options.format in _OF_STACKS and not data.stacks:
        return f"no stacks were sampled in run {printable(data.run)}; try --format text"
    return ""


def _reader(folders: list[str], progress: Progress) -> StoreReader:
    from autoprof.store_reader import StoreReader

    return StoreReader(folders, progress=progress.say)


def _default_folder() -> str:
    """Return AUTOPROF_OUTPUT, else the policy's output, else ./autoprof-data."""
    given = os.environ.get("AUTOPROF_OUTPUT")
    if given:
        return given
    path = os.environ.get("AUTOPROF_CONFIG")
    if path:
        from autoprof import config

        try:
            return config.load(path, env=os.environ, env_name=os.environ.get("AUTOPROF_ENV")).output
        except PolicyErrors as problems:
            _warn(f"AUTOPROF_CONFIG: {str(problems).splitlines()[0]}; looking in ./autoprof-data")
        except OSError as problem:
            _warn(f"AUTOPROF_CONFIG: {path}: {problem.strerror}; looking in ./autoprof-data")
    return "autoprof-data"


def _deliver(text: str, path: str | None) -> int:
    if path is None or path == "-":
        to_stdout(text)
        return DONE
    try:
        write_file(path, text.encode("utf-8", "backslashreplace"))
    except OSError as problem:
        return _fail(f"cannot write {path!r}: {problem.strerror}", USAGE)
    return DONE


def _named(folders: list[str]) -> str:
    return ", ".join(repr(folder) for folder in folders)


def _tell_notices(data: ReportData) -> None:
    for notice in data.notices:
        _warn(notice)


def _warn(message: str) -> None:
    print(f"autoprof: {printable(message)}", file=sys.stderr)


def _fail(message: str, status: int) -> int:
    _warn(message)
    return status
