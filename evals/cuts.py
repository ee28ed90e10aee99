"""Further tables of the same images: seen against unseen combinations, and diversity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from evals.collection import (
    ResultFolder,
    eta_of,
    guidance_text,
    require_one_protocol,
    setting_text,
)

_ROW = (
    "method",
    "variant",
    "iterations",
    "training_seed",
    "steps",
    "nfe",
    "guidance",
    "eta",
    "sampler",
    "partial",
)


def row_of(folder: ResultFolder) -> dict[str, Any]:
    """The columns that say which model was measured, and how."""
    result = folder.result
    label = result.model.label + (" (partial)" if result.scores.partial else "")
    return {
        "method": label,
        "variant": result.model.variant,
        "iterations": result.model.iterations,
        "training_seed": str(result.model.training.get("seed", "")),
        "steps": result.sampling.steps,
        "nfe": result.sampling.nfe,
        "guidance": guidance_text(result),
        "eta": eta_of(result),
        "sampler": setting_text(result),
        "partial": result.scores.partial,
    }


def seen_unseen_frame(folders: Sequence[ResultFolder]) -> pd.DataFrame:
    """A row per result with groups; mean and interval of every group ("seen", "unseen", ...).

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    require_one_protocol(folders)
    rows = []
    for folder in folders:
        groups = folder.result.scores.groups
        if not groups:
            continue
        row = row_of(folder)
        for name in sorted(groups):
            interval = groups[name]
            row |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        rows.append(row)
    return _frame(rows)


def diversity_frame(folders: Sequence[ResultFolder]) -> pd.DataFrame:
    """A row per result with its overall score and diversity figures; nested figures become
    "tasks.caption type.factor.figure".

    Raises:
        ValueError: if the results were not measured under one protocol.
    """
    require_one_protocol(folders)
    rows = []
    for folder in folders:
        figures = dict(_flatten(folder.result.diversity))
        if figures:
            rows.append(row_of(folder) | _overall(folder) | figures)
    return _frame(rows)


def _overall(folder: ResultFolder) -> dict[str, Any]:
    """The accuracy that diversity stands beside; empty where an incomplete set has none."""
    overall = folder.result.scores.overall
    values = (overall.mean, overall.low, overall.high) if overall else (None, None, None)
    return dict(zip(("overall", "overall_low", "overall_high"), values, strict=True))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name in sorted(values):
        value = values[name]
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{prefix}{name}", float(value)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = list(_ROW) + sorted({name for row in rows for name in row} - set(_ROW))
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({name: "Int64" for name in ("iterations", "steps", "nfe")})
    return frame.drop(columns="partial")
