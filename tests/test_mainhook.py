"""`__main__` is reached however a program is started, and the program cannot tell."""

from __future__ import annotations

import os
import py_compile
import signal
import sys
import zipapp
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import Environment
from tests.plain import same_as_plain

Write = Callable[[Mapping[str, str]], Path]
FUNCTION = 'def f():\n    return "PLAIN"\n'

LOOK = (
    FUNCTION
    + """
import sys
def stack():
    frame, found = sys._getframe(1), []
    while frame is not None:
        found.append((frame.f_code.co_name, frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return found
if True:
    main = sys.modules["__main__"]
    print(f(), stack())
    print(main is sys.modules[__name__], sorted(vars(main)))
    for name in ("__name__", "__file__", "__cached__", "__doc__", "__package__", "__spec__", "__loader__"):
        print(name, repr(globals().get(name)))
    print(type(__loader__), getattr(__loader__, "__dict__", None), globals().get("__annotations__"))
    print(sys.argv, sys.orig_argv[1:], sys.path, sys.flags)
    cache = {path: found for path, found in sys.path_importer_cache.items() if not path.endswith("/autoprof")}
    print(sorted(cache.items(), key=str), sys.path_hooks)
    print([name for name in ("runpy", "importlib.util", "pkgutil", "tokenize") if name in sys.modules])
    print(sys.gettrace(), sys.getprofile(), sys.getrecursionlimit())
"""
)


@pytest.fixture(params=["splice", "decorate"])
def backend(request: pytest.FixtureRequest) -> str:
    """Both ways of rewriting go through the most telling tests."""
    return str(request.param)


START = [
    pytest.param(["app.py", "a", "-b"], id="script"),
    pytest.param(["./app.py"], id="relative"),
    pytest.param(["ABSOLUTE/app.py"], id="absolute"),
    pytest.param(["sub/../app.py"], id="dotted path"),
    pytest.param(["link.py"], id="link"),
    pytest.param(["sub/link.py"], id="link in another folder"),
    pytest.param(["-P", "app.py"], id="safe path"),
    pytest.param(["-I", "app.py"], id="isolated"),
    pytest.param(["-O", "app.py"], id="optimised"),
    pytest.param(["-X", "dev", "-W", "ignore", "app.py", "-m"], id="options with values"),
    pytest.param(["console"], id="no extension"),
    pytest.param(["app.pyc"], id="bytecode"),
    pytest.param(["-m", "app", "x"], id="module"),
    pytest.param(["-m", "shop"], id="package"),
    pytest.param(["-m", "shop.cli", "x"], id="module of a package"),
    pytest.param(["-m", "eager.cli"], id="module imported by its package"),
    pytest.param(["folder"], id="folder"),
    pytest.param(["app.pyz", "x"], id="zip file"),
]


def program(write: Write) -> Path:
    """Write one program in every form it can be started in."""
    root = write(
        {
            "app.py": LOOK,
            "console": "#!/usr/bin/env python\n" + LOOK,
            "sub/other.py": "",
            "shop/__init__.py": "",
            "shop/__main__.py": LOOK,
            "shop/cli.py": LOOK,
            "eager/__init__.py": "from eager import cli\n",
            "eager/cli.py": "if __name__ == '__main__':\n"
            + "".join(f"    {line}\n" for line in LOOK.splitlines()),
            "folder/__main__.py": LOOK,
        }
    )
    (root / "link.py").symlink_to("app.py")
    (root / "sub" / "link.py").symlink_to("../app.py")
    py_compile.compile(str(root / "app.py"), cfile=str(root / "app.pyc"))
    zipapp.create_archive(root / "folder", root / "app.pyz")
    return root


@pytest.mark.parametrize("arguments", START)
def test_every_way_to_start(
    hooked_environment: Environment, write: Write, arguments: list[str], backend: str
) -> None:
    root = program(write)
    if backend == "decorate" and arguments == ["app.pyc"]:
        pytest.skip("no source text: the portable back end has nothing to decorate")
    arguments = [each.replace("ABSOLUTE", str(root)) for each in arguments]
    same_as_plain(hooked_environment, *arguments, cwd=root, backend=backend)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["-c", "def f(): return 'same'\nprint(f(), __name__)\n1/0"], None),
        (["-"], FUNCTION.replace("PLAIN", "same") + "print(f(), __name__)\n1/0\n"),
        ([], "def f(): return 'same'\n\nprint(f())\n"),
        (["-i"], "def f(): return 'same'\n\nprint(f())\n1/0\n"),
        (["-x", "skipped.py"], None),
        (["nowhere.py"], None),
        (["empty"], None),
        (["-m", "nowhere"], None),
        (["-m", "shop.nowhere"], None),
        (["-V"], None),
    ],
)
def test_what_is_left_alone(
    hooked_environment: Environment, write: Write, arguments: list[str], text: str | None
) -> None:
    root = write(
        {
            "skipped.py": "this line is not Python\n" + LOOK.replace("PLAIN", "same"),
            "empty/nothing": "",
            "shop/__init__.py": "",
        }
    )
    same_as_plain(hooked_environment, *arguments, cwd=root, input=text, rewritten=False)


ENDINGS = {
    "normal": "",
    "error": "def g():\n    raise ValueError('x')\ng()",
    "chained": "try:\n    1/0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "exit status": "sys.exit(7)",
    "exit text": "sys.exit('the end')",
    "exit nothing": "raise SystemExit",
    "attribute error": "f.nothing",
    "interrupt": f"import os, time\nos.kill(os.getpid(), {int(signal.SIGINT)})\ntime.sleep(5)",
    "raised interrupt": "raise KeyboardInterrupt",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "generator exit": "raise GeneratorExit",
    "recursion": "def r(): r()\ntry:\n    r()\nexcept RecursionError as e:\n    print(str(e))",
    "warning": "from warnings import warn\nwarn('w')\nwarn('w', stacklevel=2)\nwarn('w', stacklevel=3)",
    "print stack": "import traceback\ntraceback.print_stack()",
    "logging": "import logging\nlogging.basicConfig(format='%(funcName)s')\nlogging.error('x', stacklevel=2)",
    "excepthook": "sys.excepthook = lambda t, v, tb: print(v, tb.tb_frame.f_code, tb.tb_next)\n1/0",
    "at exit": "import atexit\natexit.register(lambda: print(sorted(globals())))",
    "thread error": "import threading\nt = threading.Thread(target=lambda: 1/0)\nt.start()\nt.join()",
    "source": "import inspect\nprint(inspect.getsource(f), inspect.getmodule(f), inspect.getfile(f))",
    "pickle": "import pickle\nclass C: pass\nprint(pickle.loads(pickle.dumps(C)), pickle.dumps(f))",
    "main again": "import __main__\nprint(__main__.f is f)",
    "unraisable": "class D:\n    def __del__(self): 1/0\nD()",
    "doctest": "import doctest\nprint(doctest.testmod())",
    "future": "print(eval('1/2'))",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_end(hooked_environment: Environment, write: Write, ending: str) -> None:
    text = (
        "from __future__ import annotations\nimport sys\n"
        + FUNCTION
        + "print(f(), flush=True)\n"
        + ENDINGS[ending]
    )
    root = write({"app.py": text})
    same_as_plain(hooked_environment, "app.py", cwd=root)
    same_as_plain(hooked_environment, "-m", "app", cwd=root)


@pytest.mark.parametrize(
    "text",
    [
        b"def f(:\n",
        b"x = '\xe9'\n",
        b"# coding: nonsense\n",
        b"\x00",
        b"return\n",
        b"if True:\nprint()\n",
        b"",
    ],
)
def test_scripts_that_do_not_compile(hooked_environment: Environment, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "app.py").write_bytes(text)
    same_as_plain(hooked_environment, "app.py", cwd=tmp_path, rewritten=False)


@pytest.mark.parametrize(
    "text",
    [
        b"# coding: latin-1\ndef f(): return 'PLAIN'\nprint(f(), ascii('\xe9'))\n",
        b"\xef\xbb\xbfdef f(): return 'PLAIN'\nprint(f(), ascii('\xc3\xa9'))\n",
        b"def f(): return 'PLAIN'\r\nprint(f())\r\n",
        b"def f(): return 'PLAIN'\rprint(f())\r",
        b"def f(): return 'PLAIN'\nprint(f(), 1 is 1)",
    ],
)
def test_encodings_and_line_ends(hooked_environment: Environment, tmp_path: Path, text: bytes) -> None:
    (tmp_path / "app.py").write_bytes(text)
    same_as_plain(hooked_environment, "app.py", cwd=tmp_path)


POOL = (
    FUNCTION
    + """
import multiprocessing, sys
def work(number):
    return f(), __name__, number
if __name__ == "__main__":
    import METHOD as _nothing
    with multiprocessing.get_context("KIND").Pool(1) as pool:
        print(pool.map(work, [1, 2]))
""".replace("    import METHOD as _nothing\n", "")
)


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("command", ["app.py", "-m app", "-m shop.cli"])
def test_children_of_multiprocessing(
    hooked_environment: Environment, write: Write, kind: str, command: str
) -> None:
    text = POOL.replace("KIND", kind)
    root = write({"app.py": text, "shop/__init__.py": "", "shop/cli.py": text})
    same_as_plain(hooked_environment, *command.split(), cwd=root, covers="__main__")


def test_an_uncovered_script_gets_nothing(hooked_environment: Environment, write: Write) -> None:
    root = write({"app.py": "import sys\nprint(len(sys.path_hooks), 'autoprof.mainhook' in sys.modules)\n"})
    run = hooked_environment.run("app.py", cwd=root, env={"FAKE_COVERS": "shop"})
    assert run.stdout.split()[0] == "2"


def test_names_and_aliases(hooked_environment: Environment, write: Write) -> None:
    root = write({"app.py": "import runpy", "shop/__init__.py": "", "shop/cli.py": ""})
    log = root / "log"
    env = {"FAKE_COVERS": "shop.cli", "FAKE_LOG": str(log)}
    hooked_environment.run("-m", "shop.cli", cwd=root, env=env)
    assert not log.exists() or log.read_text() in ("", "code __main__ shop.cli\n", "code shop.cli \n")
    log.unlink(missing_ok=True)
    hooked_environment.run("-m", "shop.cli", cwd=root, env={**env, "FAKE_COVERS": "__main__"})
    assert log.read_text() == "code __main__ shop.cli\n"


def test_a_script_on_a_pipe(hooked_environment: Environment, tmp_path: Path) -> None:
    """What can be read only once is left to the interpreter."""
    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)
    if os.fork() == 0:  # pragma: no cover
        try:
            pipe.write_text("print('ran')\n")
        finally:
            os._exit(0)
    run = hooked_environment.run(str(pipe), cwd=tmp_path, env={"FAKE_COVERS": "__main__"})
    os.wait()
    assert run.stdout == "ran\n", run.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal")
def test_console_scripts(hooked_environment: Environment, tmp_path: Path) -> None:
    script = hooked_environment.folder / "bin" / "shop-console"
    script.write_text(f"#!{hooked_environment.python}\n" + LOOK)
    script.chmod(0o755)
    plain = hooked_environment.run(executable=str(script), cwd=tmp_path)
    hooked = hooked_environment.run(executable=str(script), cwd=tmp_path, env={"FAKE_COVERS": "__main__"})
    script.unlink()
    assert "REWRITTEN" in hooked.stdout and "PLAIN" in plain.stdout
