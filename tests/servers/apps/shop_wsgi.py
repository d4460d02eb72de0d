"""The example shop as a WSGI application, on the database that SHOP_DATABASE names."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask
from shop.app import create_app
from shop.db import Database
from shop.seed import prepare


def opened() -> Flask:
    """Make the application; no connection of this process is left for a forked one."""
    database = Database(Path(os.environ["SHOP_DATABASE"]))
    prepare(database, 1)
    made = create_app(database)
    database.close()
    return made


app = opened()
