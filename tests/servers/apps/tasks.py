"""A Celery application on a broker that is a folder."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery

FOLDER = Path(os.environ["TASKS_FOLDER"])
for name in ("queue", "control", "results"):
    (FOLDER / name).mkdir(parents=True, exist_ok=True)

app = Celery("tasks")
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
    },
    result_backend=(FOLDER / "results").as_uri(),
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


def price(number: int) -> int:
    """Say what a number costs."""
    return 2 * number


@app.task  # type: ignore[untyped-decorator]
def order(number: int) -> int:
    """Be one task."""
    return price(number)
