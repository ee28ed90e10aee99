"""Table 2 of the paper from result folders, as a pandas frame.

One table holds one protocol. Rows are recognised by what results say of their model: method
("selfe", "fm", "imm"), variant ("", "no-target-norm", "aux") and iterations. The long horizon of
Table 2 is the largest number of iterations that its three methods have in common, the short one
the largest at which the ablations meet a milestone of Self-E.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from evals.base import TASKS
from evals.multiplicity import NOT_RESOLVED, RESOLVED
from evals.report.commands import STEPS, CommandContext, not_run
from evals.report.groups import require_one_protocol
from evals.report.reference import REFERENCE_METHOD
from evals.report.result_folders import ResultFolder
from evals.report.rows import (
    TASK_ENDS,
    Cell,
    Table,
    choose,
    difference,
    measured_row,
    missing_row,
    paper_table,
    reading_notes,
    typed,
)

TABLE2_COLUMNS = (
    "method",
    "iterations",
    "steps",
    "nfe",
    "guidance",
    "eta",
    "overall",
    "ci_low",
    "ci_high",
    "delta_selfe",
    "delta_low",
    "delta_high",
    "resolved",
    *TASKS,
    *TASK_ENDS,
)
REFERENCE = "reference"


@dataclass(frozen=True)
class RowKind:
    """A row of Table 2: its name here and in the paper, and how its results are recognised."""

    label: str
    method: str
    variant: str
    block: str
    paper_method: str
    paper_iterations: str


TABLE2_ROWS = (
    RowKind("w/o target norm.", "selfe", "no-target-norm", "short", "w/o target norm.", "100k"),
    RowKind("w/ aux. term", "selfe", "aux", "short", "w/ aux. term", "100k"),
    RowKind("Self-E", "selfe", "", "short", "Self-E", "100k"),
    RowKind("Flow Matching", "fm", "", "long", "Flow Matching", "300k"),
    RowKind("IMM", "imm", "", "long", "IMM", "300k"),
    RowKind("Self-E", "selfe", "", "long", "Self-E", "300k"),
)


def further_rows(folders: Iterable[ResultFolder]) -> list[RowKind]:
    """Rows of methods trained here that the paper does not have."""
    models = [folder.result.model for folder in folders]
    labels = {
        (model.method, model.variant): f"{model.label} ({model.variant})".removesuffix(" ()")
        for model in models
        if model.iterations is not None and (model.method, model.variant) not in _KINDS
    }
    return [RowKind(label, *key, "long", "", "") for key, label in sorted(labels.items())]


def horizons(
    chosen: Iterable[Cell], milestone_every: int | None = None
) -> tuple[int | None, int | None]:
    """(short, long) numbers of iterations of Table 2; None where nothing says.

    Without ablations the short one is about a third of the long one, as in the paper: what Self-E
    was scored at, or a milestone that its run keeps every `milestone_every` iterations.
    """
    found: dict[tuple[str, str], set[int]] = {}
    for method, variant, iterations, _ in chosen:
        if iterations is not None:
            found.setdefault((method, variant), set()).add(iterations)
    trained = [found[key] for key in _LONG if key in found]
    common = set.intersection(*trained) if trained else set()
    every = set().union(*trained)
    long = max(common or every, default=None)
    selfe = found.get((REFERENCE_METHOD, ""), set())
    ablations = [found[key] for key in found if key in _KINDS and key[1]]
    together = set.intersection(*ablations) if ablations else set()
    ran = set().union(*ablations)
    for candidates in (together & selfe, ran & selfe, ran):
        if candidates:
            return max(candidates), long
    if long is None:
        return None, None
    earlier = [n for n in selfe if n < long]
    if not earlier and milestone_every:
        earlier = list(range(milestone_every, long, milestone_every))
    third = round(long / 3)
    return min(earlier, key=lambda n: (abs(n - third), n), default=third), long


def build_table2(folders: Sequence[ResultFolder], context: CommandContext | None = None) -> Table:
    """Table 2 from the results of one protocol and one recipe.

    Raises:
        ValueError: if the results were not measured under one protocol, or recipes differ.
    """
    context = context or CommandContext()
    require_one_protocol(folders)
    recipes = sorted({folder.recipe for folder in folders})
    if len(recipes) > 1:
        raise ValueError(f"one Table 2 cannot hold recipes {' and '.join(recipes)}")
    notes: list[str] = []
    kinds = [*TABLE2_ROWS, *further_rows(folders)]
    named = {(kind.method, kind.variant) for kind in kinds}
    known = [f for f in folders if (f.result.model.method, f.result.model.variant) in named]
    chosen = choose(known, notes)
    short, long = horizons(chosen, context.milestone_every)
    at = {"short": short, "long": long}
    steps = sorted({key[3] for key in chosen} | set(STEPS))
    rows, shown = [], []
    for kind in kinds:
        iterations = at[kind.block]
        own = {key[2] for key in chosen if key[:2] == (kind.method, kind.variant)} - {None}
        if not kind.paper_method and iterations not in own:
            iterations = max(own, key=lambda n: n or 0)
        missing = [n for n in STEPS if (kind.method, kind.variant, iterations, n) not in chosen]
        command = _table2_command(kind, context, iterations, short, long, missing, chosen)
        for n in steps:
            folder = chosen.get((kind.method, kind.variant, iterations, n))
            paper = _paper_overall(kind, n)
            if folder is None:
                if n not in STEPS:
                    continue
                row = missing_row(kind.label, iterations, n, command)
                row["resolved"] = not_run(command)
            else:
                shown.append(folder)
                row = measured_row(folder, kind.label)
                row |= _against_selfe(folder, chosen.get((REFERENCE_METHOD, "", iterations, n)))
            rows.append({**row, "block": kind.block, "label": kind.label, "paper": paper})
    frame = pd.DataFrame(rows).reindex(columns=[*TABLE2_COLUMNS, *_EXTRA])
    protocol = folders[0].result.protocol if folders else None
    return Table(
        frame=typed(frame),
        protocol=protocol,
        recipe=recipes[0] if recipes else context.recipe,
        notes=reading_notes(shown) + notes,
        statements=[text for n in steps if (text := ordering(chosen, long, n))],
    )


_KINDS = {(kind.method, kind.variant) for kind in TABLE2_ROWS}
_LONG = [(kind.method, kind.variant) for kind in TABLE2_ROWS if kind.block == "long"]
_EXTRA = (
    "settings",
    "failed",
    "partial",
    "under_trained",
    "folder",
    "command",
    "block",
    "label",
    "paper",
)


def _table2_command(
    kind: RowKind,
    context: CommandContext,
    iterations: int | None,
    short: int | None,
    long: int | None,
    missing: Sequence[int],
    chosen: Mapping[Cell, ResultFolder],
) -> str:
    scored = [folder for key, folder in chosen.items() if key[:2] == (kind.method, kind.variant)]
    if scored and iterations is not None:
        runs = [run_folder(folder) for folder in scored]
        kept = next((run for run in runs if _keeps(run, iterations)), None)
        if kept or not kind.paper_method:
            return context.geneval(f"{kept or runs[0]}@{iterations}", missing or STEPS)
        name = f"{PurePosixPath(runs[0]).name}-{iterations}"
        horizon = long if iterations == short else None
        return context.train(kind.method, kind.variant, iterations, horizon, missing, name)
    if kind.block == "short" and not kind.variant:
        # a milestone of the long run, made with it
        train = context.train(kind.method).split(" && ")[0]
        run = context.run(kind.method)
        return f"{train} && {context.geneval(run, STEPS, '--milestones')}"
    if kind.block == "short":
        return context.train(kind.method, kind.variant, short, long if short else None)
    return context.train(kind.method)


def _keeps(run: str, iterations: int) -> bool:
    """Whether a run has weights of that iteration; True where its checkpoints are not beside the
    results, so that nobody can tell."""
    checkpoints = Path(run) / "checkpoints"  # `os.path` takes names that are too long for a folder
    kept = os.path.isdir(checkpoints / f"step-{iterations:08d}")
    return kept or not os.path.isdir(checkpoints)


def run_folder(folder: ResultFolder) -> str:
    """The training run a result belongs to, as `geneval --model` takes it."""
    run = folder.run
    for parent in folder.path.parents:
        if parent.name == run:
            return parent.as_posix()
    return run


def _paper_overall(kind: RowKind, steps: int) -> float | None:
    frame = paper_table(2)
    if steps not in STEPS or not kind.paper_method:
        return None
    match = (frame["method"] == kind.paper_method) & (frame["iterations"] == kind.paper_iterations)
    return float(frame.loc[match, f"steps_{steps}"].iloc[0])


def _against_selfe(folder: ResultFolder, selfe: ResultFolder | None) -> dict[str, Any]:
    if selfe is folder:
        return {"resolved": REFERENCE}
    if selfe is None:
        return {"resolved": "no Self-E at these iterations and steps"}
    delta = difference(folder, selfe)
    if delta is None:
        return {"resolved": "partial: not compared"}
    return {
        "delta_selfe": delta.interval.mean,
        "delta_low": delta.interval.low,
        "delta_high": delta.interval.high,
        "resolved": RESOLVED if delta.resolved else NOT_RESOLVED,
    }


def ordering(chosen: dict[Cell, ResultFolder], iterations: int | None, steps: int) -> str:
    """The methods at one number of steps, best first; ">" only where the step down is resolved."""
    papers = [method for method, _ in reversed(_LONG)]
    methods = dict.fromkeys([*papers, *(key[0] for key in chosen)])
    found = [chosen.get((method, "", iterations, steps)) for method in methods]
    scored = [
        (folder.result.scores.overall.mean, folder)
        for folder in found
        if folder and folder.result.scores.overall and not folder.result.scores.partial
    ]
    if len(scored) < 2:
        return ""
    scored.sort(key=lambda pair: -pair[0])
    text = f"At {steps} step{'s' if steps > 1 else ''}: {_name_score(scored[0])}"
    for better, worse in zip(scored, scored[1:], strict=False):
        delta = difference(better[1], worse[1])
        assert delta is not None
        if delta.resolved:
            text += f" > {_name_score(worse)} ({RESOLVED})"
        else:
            text += f", {_name_score(worse)} ({NOT_RESOLVED})"
    return text + "."


def _name_score(pair: tuple[float, ResultFolder]) -> str:
    label = pair[1].result.model.label
    return f"{label}{' (under-trained)' if pair[1].under_trained else ''} {pair[0]:.3f}"
