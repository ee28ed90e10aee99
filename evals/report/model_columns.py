"""The columns that say what a model is and how it was sampled, the same in every table."""

from __future__ import annotations

from typing import Any

import pandas as pd

from evals.base import Result
from evals.report.markup import plain
from evals.report.result_folders import ResultFolder

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


_FIXED = {
    "method": "Method",
    "variant": "Variant",
    "iterations": "Iterations",
    "training_seed": "Training seed",
    "steps": "Steps",
    "nfe": "NFE",
    "guidance": "Guidance",
    "eta": "eta",
    "sampler": "Sampler",
}
FIXED_HEADER = list(_FIXED.values())


def setting_text(result: Result) -> str:
    """Sampler, update and schedule beside a row, guidance and eta apart."""
    settings = result.sampling.settings
    names = ("sampler", "update", "s_fraction", "s", "shift", "scheduler", "dtype")
    parts = []
    for name in names:
        value = settings.get(name)
        if value is None or (name == "s_fraction" and not value):
            continue
        if name in ("s_fraction", "shift"):
            value = f"{'s at' if name == 's_fraction' else name} {value:g}"
        parts.append(f"s = {value}" if name == "s" else str(value))
    return ", ".join(parts)


def guidance_text(result: Result) -> str:
    """Guidance kind and scale, as in "linear 3" or "none"."""
    kind = str(result.sampling.settings.get("guidance", ""))
    scale = result.sampling.settings.get("guidance_scale")
    if kind in ("none", "") or scale is None:
        return kind
    at_t = " at s = t" if result.sampling.settings.get("guidance_time") == "t" else ""
    return f"{kind} {scale:g}{at_t}"


def eta_of(result: Result) -> float | None:
    value = result.sampling.settings.get("eta")
    return None if value is None else float(value)


def fixed_cells(row: pd.Series) -> list[str]:
    """The cells under `FIXED_HEADER`, of a row made by `evals.report.model_columns.row_of`."""
    return [plain(row[name]) for name in _FIXED]


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


def row_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = list(_ROW) + sorted({name for row in rows for name in row} - set(_ROW))
    frame = pd.DataFrame(rows, columns=columns)
    frame = frame.astype({name: "Int64" for name in ("iterations", "steps", "nfe")})
    return frame.drop(columns="partial")
