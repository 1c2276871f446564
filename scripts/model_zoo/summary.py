"""What came of it all: a table for people and `summary.json` for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from model_zoo.records import Record, Workplace, read_report, write_atomically
from model_zoo.run import Outcome, Plan

SUMMARY = "summary.json"
_STYLES = {"done": "green", "unchanged": "dim", "failed": "red"}


def summarize(outcomes: Sequence[Outcome], workplace: Workplace) -> list[dict[str, Any]]:
    """Collects what is known of each job, measured by its export; what was not measured is None.

    Returns:
        One mapping for each job, of JSON types: sizes in bytes, PSNR in dB, times in seconds.
    """
    return [_describe(outcome, workplace) for outcome in outcomes]


def _describe(outcome: Outcome, workplace: Workplace) -> dict[str, Any]:
    job = outcome.job
    row: dict[str, Any] = {
        "job": job.id,
        "status": outcome.status,
        "reason": outcome.reason,
        "package": str(workplace.package(job)),
        "log": str(workplace.log(job)),
        "seconds": round(outcome.seconds, 1),
        "repository": job.repository,
        "subfolder": job.subfolder,
    }
    record = Record.read(workplace.record(job)) if outcome.status in ("done", "unchanged") else None
    report = read_report(workplace.package(job)) if record else {}
    accuracy = report.get("accuracy") or {}
    metric = accuracy.get("primary_metric")
    ratios = [float(ratio) for ratio in (report.get("package_psnr") or {}).values()]
    row |= {
        "bytes": (report.get("sizes") or {}).get("package"),
        "psnr": min(ratios, default=None),
        "metric": metric,
        "original": _score(accuracy, "original", metric),
        "accuracy": _score(accuracy, "package", metric),
        "url": record.published.url if record and record.published and job.repository else None,
    }
    return row


def _score(accuracy: dict[str, Any], who: str, metric: str | None) -> float | None:
    scores = accuracy.get(who)
    return scores["metrics"].get(metric) if scores and metric else None


def write_summary(rows: Sequence[dict[str, Any]], workplace: Workplace) -> Path:
    """Writes `summary.json`."""
    path = workplace.root / SUMMARY
    # An infinite PSNR, of equal answers, is no JSON number.
    plain = [row | {"psnr": "inf" if row["psnr"] == float("inf") else row["psnr"]} for row in rows]
    write_atomically(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return path


def print_summary(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Prints the table, and below it a line for each job that says where its package is, or why there is none."""
    table = Table("job", "status", title="The zoo", title_justify="left")
    for name in ("MB", "PSNR dB", "original", "package", "seconds"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["job"],
            Text(row["status"], style=_STYLES.get(row["status"], "yellow")),
            "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}",
            "" if row["psnr"] is None else f"{row['psnr']:.1f}",
            *("" if row[who] is None else f"{row[who]:.4f}" for who in ("original", "accuracy")),
            f"{row['seconds']:.0f}",
        )
    # A table would cut a reason or an address to the width of the screen.
    console.print(table)
    for row in rows:
        place = row["url"] or (row["package"] if row["bytes"] is not None else None)
        text = row["reason"] or place or row["status"]
        console.print(f"{row['job']}: {text}", soft_wrap=True)
    statuses = [row["status"] for row in rows]
    console.print(", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses)))


def print_plans(plans: Sequence[Plan], console: Console) -> None:
    """Prints what would be done, a line for each job."""
    for plan in plans:
        job = plan.job
        place = "/".join(filter(None, (job.repository, job.subfolder)))
        todo = plan.reason or " and ".join(plan.steps) or "nothing, it is done and unchanged"
        console.print(f"{job.id} ({job.model.model} → {place or 'not published'}): {todo}", soft_wrap=True)
