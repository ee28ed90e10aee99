"""Further tables of the same images: seen against unseen combinations, and diversity."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from evals.report.groups import require_one_protocol
from evals.report.markup import to_markdown, with_interval
from evals.report.model_columns import (
    FIXED_HEADER,
    fixed_cells,
    row_frame,
    row_of,
)
from evals.report.result_folders import ResultFolder

SEEN_UNSEEN = (
    "Share of correct images [95% interval] of the prompts with two coloured objects (attribute "
    "binding), where the combination of shapes and colours was seen in training, and where it was "
    "held out."
)


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
    return row_frame(rows)


def seen_unseen_markdown(frame: pd.DataFrame) -> str:
    """A row per result, a column per group of prompts."""
    groups = [n.removesuffix("_low") for n in frame.columns if n.endswith("_low")]
    rows = [
        [
            *fixed_cells(row),
            *[with_interval(row[g], row[f"{g}_low"], row[f"{g}_high"]) for g in groups],
        ]
        for _, row in frame.iterrows()
    ]
    return to_markdown([*FIXED_HEADER, *groups], rows)
