"""A program cannot see the hook: attributes, resources, tracebacks and stacks are those of a plain run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.conftest import Environment
from tests.plain import same_as_plain

Write = Callable[[Mapping[str, str]], Path]
FUNCTION = 'def f():\n    """Doc."""\n    return "PLAIN"\n'

DUMP = """
import importlib, importlib.resources, inspect, json, linecache, pkgutil, sys, types, importlib.util

def show(value):
    if isinstance(value, types.FunctionType):
        return f"{value!r} {value.__module__} {value.__code__.co_filename} {value.__code__.co_firstlineno}"
    return repr(value)

def dump(module):
    print("==", repr(module))
    for name in vars(module):
        if name not in ("__builtins__", "__spec__", "__loader__"):
            print(name, show(vars(module)[name]))
    spec, loader = module.__spec__, module.__loader__
    print("spec", {name: repr(value) for name, value in vars(spec).items()}, spec.loader is loader)
    print("loader", type(loader), sorted(vars(loader)), repr(loader))
    for name in ("get_source", "get_filename", "is_package"):
        try:
            print(name, getattr(loader, name)(spec.name))
        except Exception as error:
            print(name, type(error), error)
    try:
        print(inspect.getsource(module.f), inspect.getfile(module), inspect.getmodule(module.f) is module)
        print(linecache.getlines(module.__file__, vars(module))[:2])
    except Exception as error:
        print(type(error), error)
    if hasattr(module, "f"):
        print(module.f())

for name in NAMES:
    dump(importlib.import_module(name))
for name in ("shop", "shop.sub"):
    try:
        print(pkgutil.get_data(name, "data.txt"))
        print((importlib.resources.files(name) / "data.txt").read_text())
        with importlib.resources.as_file(importlib.resources.files(name) / "data.txt") as path:
            print(path.read_text())
    except Exception as error:
        print(type(error), error)
print(sorted(m.name for m in pkgutil.walk_packages(sys.modules["shop"].__path__, "shop.")))
print(sys.path_hooks, [each for each in sys.path_importer_cache if not each.endswith("/autoprof")])
"""


@pytest.mark.parametrize("backend", ["splice", "decorate"])
def test_every_attribute_and_resource(hooked_environment: Environment, write: Write, backend: str) -> None:
    names = ["shop", "shop.sub", "shop.sub.deep", "shop.space", "shop.space.inner", "__hello__"]
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/data.txt": "data\n",
            "shop/sub/__init__.py": FUNCTION + "from shop.sub import deep\n",
            "shop/sub/data.txt": "sub data\n",
            "shop/sub/deep.py": FUNCTION,
            "shop/space/inner.py": FUNCTION,
            "app.py": f"NAMES = {names}\n{DUMP}",
        }
    )
    same_as_plain(hooked_environment, "app.py", cwd=root, covers="shop,__hello__", backend=backend)


@pytest.mark.parametrize("backend", ["splice", "decorate"])
def test_every_attribute_in_a_zip_file(hooked_environment: Environment, tmp_path: Path, backend: str) -> None:
    with zipfile.ZipFile(tmp_path / "lib.zip", "w") as file:
        for name in ("shop/__init__.py", "shop/sub/__init__.py", "shop/sub/deep.py"):
            file.writestr(name, FUNCTION)
        file.writestr("shop/data.txt", "data")
        file.writestr("shop/sub/data.txt", "data")
    (tmp_path / "app.py").write_text(
        "import sys\nsys.path.insert(0, 'lib.zip')\nNAMES = ['shop', 'shop.sub', 'shop.sub.deep']\n" + DUMP
    )
    same_as_plain(hooked_environment, "app.py", cwd=tmp_path, covers="shop", backend=backend)


FAILURES = """
import importlib, runpy, sys, traceback, warnings

def attempt(action):
    try:
        action()
    except BaseException:
        print(traceback.format_exc())

def statement(): import shop.NAME
def from_package(): from shop import NAME
def by_function(): importlib.import_module("shop.NAME")
def by_dunder(): __import__("shop.NAME")
def as_module(): runpy.run_module("shop.NAME")
def as_main(): runpy.run_module("shop.NAME", run_name="__main__")

import shop
print(shop.f())
for action in (statement, from_package, by_function, by_dunder, as_module, as_main):
    attempt(action)
    sys.modules.pop("shop.NAME", None)
"""


@pytest.mark.parametrize("backend", ["splice", "decorate"])
@pytest.mark.parametrize(
    "body",
    [
        "def g():\n    raise ValueError('x')\ng()\n",
        "def g(:\n",
        "\x00",
        "import a_module_that_is_nowhere\n",
        "from shop import nothing_of_that_name\n",
        "import shop.broken2\n",
        "raise SystemExit(3)\n",
        "raise KeyboardInterrupt\n",
        "assert False, 'text'\n",
        "def g():\n  try:\n    1/0\n  except ArithmeticError as e:\n    raise ImportError('x') from e\ng()\n",
        "import sys\nprint([f for f in __import__('traceback').extract_stack()])\n",
        "import warnings\nwarnings.warn('hey', stacklevel=2)\nwarnings.warn('hey', stacklevel=1)\n",
        "x = 1 is 1\nassert (1, 'always true')\n",
        "# -*- coding: latin-1 -*-\nx = '\\u00e9'\n",
        "# -*- coding: no-such-encoding -*-\n",
    ],
)
def test_tracebacks_and_stacks(
    hooked_environment: Environment, write: Write, body: str, backend: str
) -> None:
    if backend == "decorate" and "always true" in body:
        pytest.skip("the portable back end compiles the text a second time, and warns a second time")
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/broken.py": body,
            "shop/broken2.py": "def g():\n    raise LookupError('two')\ng()\n",
            "app.py": FAILURES.replace("NAME", "broken"),
        }
    )
    same_as_plain(hooked_environment, "app.py", cwd=root, covers="shop", backend=backend)
    same_as_plain(hooked_environment, "-m", "app", cwd=root, covers="shop,__main__", backend=backend)


@pytest.mark.parametrize("command", ["app.py", "-m shop.broken", "-m shop"])
def test_uncaught_errors_of_a_covered_module(
    hooked_environment: Environment, write: Write, command: str
) -> None:
    root = write(
        {
            "shop/__init__.py": FUNCTION,
            "shop/__main__.py": "from shop import f\nprint(f(), flush=True)\nimport shop.broken\n",
            "shop/broken.py": "from shop import f\nprint(f(), flush=True)\nraise ValueError('x')\n",
            "app.py": "import shop.broken\n",
        }
    )
    plain = same_as_plain(hooked_environment, *command.split(), cwd=root)
    assert plain.returncode == 1


def test_a_failing_rewriter_is_not_seen(hooked_environment: Environment, write: Write) -> None:
    root = write({"shop/__init__.py": FUNCTION, "app.py": FUNCTION + "import shop\nprint(f(), shop.f())\n"})
    env = {"FAKE_COVERS": "shop,__main__", "FAKE_FAILS": "1"}
    run = hooked_environment.run("app.py", cwd=root, env=env)
    assert (run.stdout, run.returncode) == ("PLAIN PLAIN\n", 0)
    assert run.stderr.count("internal error") == 1
