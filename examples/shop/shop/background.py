"""The background thread: it looks after the stock while customers shop."""

from __future__ import annotations

import sqlite3
import threading

from shop.db import Database

LOW_STOCK = 20
REFILL_TO = 500


class StockKeeper:
    """Refill what runs low, every `interval_s` seconds, as long as the context it manages is open."""

    def __init__(self, database: Database, interval_s: float = 0.05) -> None:
        self._database = database
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stock-keeper", daemon=True)
        self.rounds = 0
        self.failures = 0

    def __enter__(self) -> StockKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(timeout=10)

    @property
    def is_running(self) -> bool:
        """Whether the thread is at work."""
        return self._thread.is_alive()

    def refill(self) -> int:
        """Order what is short; return how many products were."""
        with self._database.transaction() as connection:
            done = connection.execute("UPDATE product SET stock = ? WHERE stock < ?", (REFILL_TO, LOW_STOCK))
            return done.rowcount

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            try:
                self.refill()
            except sqlite3.OperationalError:
                self.failures += 1  # a busy database: the next round tries again
            self.rounds += 1
