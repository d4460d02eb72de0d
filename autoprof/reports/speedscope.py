"""Files for https://www.speedscope.app, by its published schema."""

from __future__ import annotations

import json

from autoprof.reports.model import row_stacks, sampled_keys, split_label, title_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.reports.model import Stacks
    from autoprof.store_records import ReportData

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_UNITS = {"ns": "nanoseconds", "samples": "none", "bytes": "bytes"}


def render(data: ReportData) -> str:
    """Return one file with one sampled profile per row, weighed in samples."""
    shared = _Frames()
    profiles = [
        _profile(shared, title_of(key), row_stacks(data, key), "samples") for key in sampled_keys(data)
    ]
    return _document(f"autoprof run {data.run}", shared, profiles)


def render_stacks(stacks: Stacks, *, title: str, unit: str = "ns") -> str:
    """Return a file with one profile.

    Args:
        stacks: (frame labels root first, weight).
        unit: Of the weights: `ns`, `samples` or `bytes`.
    """
    shared = _Frames()
    return _document(title, shared, [_profile(shared, title, stacks, unit)])


class _Frames:
    """The frames that a file's profiles share."""

    def __init__(self) -> None:
        self.listed: list[dict[str, Any]] = []
        self._known: dict[str, int] = {}

    def index(self, label: str) -> int:
        """Return a frame's number, made when it is new."""
        known = self._known.get(label)
        if known is None:
            name, file, line = split_label(label)
            frame: dict[str, Any] = {"name": name}
            if file:
                frame |= {"file": file, "line": line}
            self.listed.append(frame)
            known = self._known[label] = len(self.listed) - 1
        return known


def _profile(shared: _Frames, name: str, stacks: Stacks, unit: str) -> dict[str, Any]:
    samples: list[list[int]] = []
    weights: list[int] = []
    for stack, weight in sorted(stacks):
        samples.append([shared.index(frame) for frame in stack])
        weights.append(weight)
    return {
        "type": "sampled",
        "name": name,
        "unit": _UNITS[unit],
        "startValue": 0,
        "endValue": sum(weights),
        "samples": samples,
        "weights": weights,
    }


def _document(name: str, shared: _Frames, profiles: list[dict[str, Any]]) -> str:
    document = {
        "$schema": _SCHEMA,
        "name": name,
        "exporter": "autoprof",
        "activeProfileIndex": 0,
        "shared": {"frames": shared.listed},
        "profiles": profiles,
    }
    return json.dumps(document, separators=(",", ":")) + "\n"
