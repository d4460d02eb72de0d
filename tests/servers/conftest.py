"""What the tests of servers share."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Environment
from tests.servers.harness import SHOP, Site


@pytest.fixture(scope="session")
def shop_database(environment: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's database, filled once."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    fill = (
        "import sys; from pathlib import Path; from shop.db import Database; from shop.seed import prepare; "
        "database = Database(Path(sys.argv[1])); prepare(database, 1); database.close()"
    )
    done = environment.run("-c", fill, path, env={"PYTHONPATH": str(SHOP)})
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture
def site(environment: Environment, tmp_path: Path) -> Callable[[str], Site]:
    """Return a function that makes the folder of one program, given the globs to profile."""

    def make(match: str) -> Site:
        return Site(environment, tmp_path, match)

    return make


@pytest.fixture
def shop(environment: Environment, tmp_path: Path, shop_database: Path) -> Site:
    """The example shop with every function profiled."""
    pytest.importorskip("flask")
    shutil.copy(shop_database, tmp_path / "shop.db")
    return Site(environment, tmp_path, "[shop:*, shop.*:*, shop_wsgi:*]")
