"""What one call did to the process's memory, for programs."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


def render_memory(data: Mapping[str, object], *, title: str) -> str:
    """Return one JSON object: the data of `strategies.memory` with the title; null where nothing was measured."""
    return json.dumps({"schema": 1, "title": title, **data}, indent=1, default=str) + "\n"
