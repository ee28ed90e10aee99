"""Table 1: every model under one protocol, and the paper's figures beside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from evals.report.commands import STEPS, CommandContext, not_run
from evals.report.groups import require_one_protocol
from evals.report.reference import TABLE1_TRAINED
from evals.report.result_folders import ResultFolder
from evals.report.rows import (
    ERRATUM,
    TASK_ENDS,
    Cell,
    Table,
    choose,
    follows_paper_protocol,
    measured_row,
    missing_row,
    paper_table,
    reading_notes,
    typed,
)

TABLE1_TASKS = ("single_object", "two_object", "color_attr", "colors", "counting", "position")
TABLE1_COLUMNS = (
    "steps",
    "method",
    "nfe",
    "guidance",
    "overall",
    "ci_low",
    "ci_high",
    *TABLE1_TASKS,
    "status",
    "paper_overall",
    *[f"paper_{task}" for task in TABLE1_TASKS],
    "paper_errata",
    "delta_paper",
    *TASK_ENDS,
)
# Rows of Table 1 in the paper's order: label, name of the model on the command line.
TABLE1_ROWS = (
    ("SDXL", "sdxl"),
    ("FLUX.1-Dev", "flux-dev"),
    ("LCM", "lcm"),
    ("SANA-1.5", "sana-1.5"),
    ("TiM", "tim"),
    ("SDXL-Turbo", "sdxl-turbo"),
    ("SD3.5-Turbo", "sd3.5-turbo"),
    ("Self-E (2B)", "selfe"),
)
_EXTRA = ("settings", "eta", "iterations", "failed", "partial", "under_trained", "folder")
_PUBLISHED = {name: label for label, name in TABLE1_ROWS if label not in TABLE1_TRAINED}
_TRAINED = {(row.method, row.recipe): label for label, row in TABLE1_TRAINED.items()}


def is_published(folder: ResultFolder) -> bool:
    """Whether a result is of a model this repository did not train."""
    model = folder.result.model
    return model.iterations is None or model.method in _PUBLISHED


def row_label(folder: ResultFolder) -> str:
    """Name of a result's row: the paper's where it is one of the paper's models."""
    model = folder.result.model
    if model.method in _PUBLISHED:
        return _PUBLISHED[model.method]
    if model.iterations is None:
        return model.label
    if (label := _TRAINED.get((model.method, folder.recipe))) is not None:
        return label
    recipe = f"{folder.recipe}, " if folder.recipe else ""
    return f"{model.label} ({recipe}{model.iterations} it.)"


def _cell(folder: ResultFolder) -> Cell:
    model = folder.result.model
    return (row_label(folder), model.variant, model.iterations, folder.result.sampling.steps)


def _final_only(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """Without ablations, and of every trained run only its last scored iteration."""
    last: dict[tuple[str, str], int] = {}
    for folder in folders:
        model = folder.result.model
        key = (model.method, folder.recipe)
        last[key] = max(last.get(key, 0), model.iterations or 0)
    kept = []
    for folder in folders:
        model = folder.result.model
        if not model.variant and (model.iterations or 0) == last[model.method, folder.recipe]:
            kept.append(folder)
    return kept


def build_table1(folders: Sequence[ResultFolder], context: CommandContext | None = None) -> Table:
    """Table 1 from the results of one protocol: steps x models.

    The paper's models appear whether or not they were run, unless nothing but models trained here
    was scored under this protocol. Models drawn with other weights than those they are named after
    take the places of the paper's models in a table of their own, without the paper's figures.

    Raises:
        ValueError: if the results were not measured under one protocol, or only some with other
            weights.
    """
    context = context or CommandContext()
    require_one_protocol(folders)
    other_weights = require_same_kind_of_weights(folders)
    protocol = folders[0].result.protocol if folders else None
    notes: list[str] = []
    chosen = {
        (key[0], key[3]): folder
        for key, folder in choose(_final_only(folders), notes, _cell).items()
    }
    shows_paper = (
        not folders
        or (protocol is not None and protocol.suite.startswith("geneval"))
        or any(folder.result.model.method in _PUBLISHED for folder in folders)
    )
    paper_labels = [label for label, _ in TABLE1_ROWS] if shows_paper else []
    others = list(dict.fromkeys(label for label, _ in chosen if label not in paper_labels))
    comparable = follows_paper_protocol(protocol)
    rows = []
    for steps in sorted({steps for _, steps in chosen} | set(STEPS)):
        for label in [*paper_labels, *others]:
            folder = chosen.get((label, steps))
            if folder is None and (steps not in STEPS or label not in paper_labels):
                continue
            paper = {} if other_weights else _paper_row(label, steps)
            if folder is None:
                command = _command(label, context)
                row = missing_row(label, None, steps, command) | {"status": not_run(command)}
            else:
                row = measured_row(folder, folder.result.model.label if other_weights else label)
                row["status"] = "partial" if folder.result.scores.partial else "measured"
                overall = folder.result.scores.overall
                if comparable and overall and paper and not folder.result.scores.partial:
                    row["delta_paper"] = overall.mean - paper["paper_overall"]
            rows.append(row | paper | {"label": label})
    frame = pd.DataFrame(rows).reindex(columns=[*TABLE1_COLUMNS, *_EXTRA, "label"])
    return Table(
        frame=typed(frame),
        protocol=protocol,
        notes=reading_notes(chosen.values()) + _errata(frame) + notes,
        other_weights=other_weights,
    )


def require_same_kind_of_weights(folders: Sequence[ResultFolder]) -> bool:
    """Whether all results are of models drawn with other weights than those they are named after.

    Raises:
        ValueError: if only some are.
    """
    kinds = {bool(folder.result.model.other_weights): folder for folder in folders}
    if len(kinds) > 1:
        raise ValueError(
            f"one table cannot hold {kinds[True].result.model.label} ({kinds[True].name}) and "
            f"models drawn with their own weights ({kinds[False].name}): render them apart"
        )
    return True in kinds


def _command(label: str, context: CommandContext) -> str:
    if (row := TABLE1_TRAINED.get(label)) is not None:
        return CommandContext(row.recipe, context.runs_dir, context.options).train(row.method)
    return context.geneval(dict(TABLE1_ROWS)[label])


def _paper_row(label: str, steps: int) -> dict[str, Any]:
    frame = paper_table(1)
    match = frame[(frame["method"] == label) & (frame["steps"] == steps)]
    if match.empty:
        return {}
    record = match.iloc[0]
    errata = record["errata"]
    return {
        "paper_overall": float(record["overall"]),
        **{f"paper_{task}": float(record[task]) for task in TABLE1_TASKS},
        "paper_errata": errata if isinstance(errata, str) else "",
    }


def _errata(frame: pd.DataFrame) -> list[str]:
    notes = []
    for row in frame.itertuples():
        if isinstance(row.paper_errata, str) and row.paper_errata:
            notes.append(f"{ERRATUM}, {row.label}, {row.steps} steps: {row.paper_errata}.")
    return notes
