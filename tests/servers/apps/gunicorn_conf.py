"""gunicorn's settings for the tests: each worker says when it takes signals; before that it may lose one."""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """Say so."""
    worker.log.info("takes signals")
