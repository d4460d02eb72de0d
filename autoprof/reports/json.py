"""The report for programs: JSON, its shape fixed by the contract; keys may be added, never changed."""

from __future__ import annotations

import json

from autoprof.reports.model import quantiles

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.store_records import ProbeRow, ProcessRow, ReportData

SCHEMA = 1


def render(data: ReportData) -> str:
    """Return the report as one JSON object; null where nothing was measured."""
    document = {
        "schema": SCHEMA,
        "run": data.run,
        "started_ns": data.started_ns,
        "ended_ns": data.ended_ns,
        "runs": [info.run for info in data.runs],
        "probes": [_probe(row) for row in data.probes],
        "processes": [_process(row) for row in data.processes],
        "artefacts": [
            {"target": item.target, "path": item.path, "format": item.format, "created_ns": item.created_ns}
            for item in data.artefacts
        ],
        "dropped": data.dropped,
    }
    return json.dumps(document, indent=1) + "\n"


def _probe(row: ProbeRow) -> dict[str, Any]:
    return {
        "target": row.target,
        "rule": row.rule,
        "policy": row.policy,
        "strategy": row.strategy,
        "calls": row.calls,
        "profiled": row.profiled,
        "skipped": row.skipped,
        "skipped_by": dict(sorted(row.skipped_by.items())),
        "discarded": row.discarded,
        "slow": row.slow,
        "samples": row.samples,
        "duration_ns": quantiles(row),
        "estimated_total_ns": row.estimated_total_ns,
        "memory_delta_bytes": row.memory_delta_bytes,
        "memory_blocks_delta": row.memory_counts.get("blocks"),
        "memory_blocks_calls": row.memory_counts.get("blocks_calls"),
        "callees": dict(sorted(row.callees.items())) or None,
        "overhead_ns": row.overhead_ns,
        "processes": row.processes,
    }


def _process(row: ProcessRow) -> dict[str, Any]:
    return {
        "pid": row.pid,
        "host": row.host,
        "run": row.run,
        "started_ns": row.started_ns,
        "ended_ns": row.ended_ns,
        "overhead_ns": row.overhead_ns,
        "env": row.env,
        "dropped": row.dropped,
    }
