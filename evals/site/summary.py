"""Facts of all results together, for the page: scores, lines, tables, runs.

Each function makes one part of what the page is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evals.base import TASKS, Interval
from evals.report import page
from evals.report.compact import settings_of
from evals.report.exact_model import NAME, exact_scores
from evals.report.lines import Line, short_id
from evals.report.markup import is_missing
from evals.report.model_columns import eta_of, guidance_text, setting_text
from evals.report.result_folders import ResultFolder
from evals.report.rows import PAPER, Table, paper_table
from evals.results import protocol_key
from evals.site.runs import RunRecord


@dataclass(frozen=True)
class ResultIds:
    """Identifiers that stay the same when results come: by place among the folders."""

    ids: list[str]

    @classmethod
    def of(cls, folders: Sequence[ResultFolder]) -> ResultIds:
        return cls([short_id(f.name, f.result.model.digest) for f in folders])


def protocol_id(folder: ResultFolder) -> str:
    return protocol_key(folder.result.protocol)[:10]


def rounded(interval: Interval | None) -> list[float] | None:
    if interval is None:
        return None
    return [round(v, 5) for v in (interval.mean, interval.low, interval.high)]


def result_facts(
    folder: ResultFolder, identifier: str, line: Line, seconds: float | None
) -> dict[str, Any]:
    """One result as the page's JavaScript reads it."""
    result = folder.result
    scores, facts = result.scores, result.environment
    versions = facts.get("versions") or {}
    return {
        "id": identifier,
        "line": line.id,
        "protocol": line.protocol,
        "final": line.is_final(folder),
        "steps": result.sampling.steps,
        "nfe": result.sampling.nfe,
        "iterations": result.model.iterations,
        "seconds": seconds,
        "overall": rounded(scores.overall),
        "tasks": {task: rounded(interval) for task, interval in scores.tasks.items()},
        "partial": scores.partial,
        "num_images": scores.num_images,
        "failed": scores.num_failed,
        "diversity": diversity_facts(result.diversity),
        "guidance": guidance_text(result),
        "eta": eta_of(result),
        "sampler": setting_text(result),
        "seed": result.sampling.seed,
        "commit": str(facts.get("commit", "")),
        "machine": str(facts.get("machine", "")),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "command": result.command,
        "folder": folder.name,
        "digest": result.model.digest,
    }


def diversity_facts(figures: dict[str, Any]) -> dict[str, Any] | None:
    """Total variation and that of the data: over all factors, and the mean over tasks of each kind
    of factor."""
    whole = (figures.get("tv"), figures.get("tv_data"))
    if not all(isinstance(v, (int, float)) for v in whole):
        return None
    kinds: dict[str, list[tuple[float, float]]] = {}
    tasks = figures.get("tasks")
    for factors in tasks.values() if isinstance(tasks, dict) else ():
        for kind, leaf in factors.items():
            if isinstance(leaf, dict) and "tv" in leaf and "tv_data" in leaf:
                kinds.setdefault(str(kind), []).append((leaf["tv"], leaf["tv_data"]))
    means = {kind: np.mean(values, axis=0).round(5).tolist() for kind, values in kinds.items()}
    return {"all": [round(float(v), 5) for v in whole if v is not None], "kinds": means}


def line_facts(line: Line, has_pictures: bool) -> dict[str, Any]:
    folder = line.first
    model = folder.result.model
    facts = model.training
    return {
        "id": line.id,
        "kind": "training",
        "protocol": line.protocol,
        "name": line.name,
        "label": model.label if not model.variant else "",
        "method": model.method,
        "style": line.style,
        "usual": line.usual,
        "in_gallery": True,
        "usual_gallery": line.usual,
        "pictures": has_pictures,
        "changed": list(folder.changed or ()),
        "changed_known": folder.changed is not None,
        "recipe": folder.recipe,
        "run": folder.run,
        "seed": str(facts.get("seed", "")),
        "precision": str(facts.get("precision", "")),
        "parameters": model.parameters,
        "init_from": str(facts.get("init_from") or ""),
        "other_weights": model.other_weights,
        "under_trained": folder.under_trained,
    }


def protocol_facts(folder: ResultFolder, apart: Mapping[str, str]) -> dict[str, Any]:
    """Name, words and tasks of a result's protocol; `apart` is of `page.telling_apart`."""
    protocol = folder.result.protocol
    present = [task for task in TASKS if task in folder.result.scores.tasks]
    others = sorted(set(folder.result.scores.tasks) - set(TASKS))
    size = f"{protocol.num_prompts} x {protocol.images_per_prompt}"
    words = apart.get(protocol_key(protocol), "")
    return {
        "id": protocol_id(folder),
        "name": ", ".join(part for part in (protocol.suite, protocol.split, size, words) if part),
        "words": page.protocol_text(protocol),
        "tasks": [*present, *others],
    }


# ---------------------------------------------------------------- means over training seeds


def mean_lines(
    frame: pd.DataFrame, protocol: str, lines: Sequence[Line]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Lines over training seeds, and their points, from `trainings_frame`.

    Single trainings of a configuration that has a mean give up their places in the first chart.
    """
    found: list[dict[str, Any]] = []
    points: list[dict[str, Any]] = []
    several = frame["recipe"].nunique() > 1
    named = {line.first.result.model.variant for line in lines if line.first.own_name}
    for key, members in frame.groupby(["recipe", "method", "variant", "settings"], sort=False):
        identifier = short_id(protocol, "mean", *key)
        own = [line for line in lines if settings_of(line.first) == key[3]]
        last = members["iterations"].max()
        seeds = str(members["training_seed"].iloc[0])
        added = ", ".join(str(part) for part in (key[2], key[0] if several else "") if part)
        name = label = f"{key[1]} ({added})" if added else str(key[1])
        found.append(
            {
                "id": identifier,
                "kind": "mean",
                "protocol": protocol,
                "name": f"{name}, mean of {len(seeds.split())} seeds",
                "label": label,
                "method": own[0].first.result.model.method if own else "",
                "style": next((line.style for line in own if line.usual), len(found)),
                "usual": not key[2] or key[2] in named,
            }
        )
        for _, row in members.iterrows():
            ends = ("", "_low", "_high")
            points.append(
                {
                    "line": identifier,
                    "protocol": protocol,
                    "final": bool(row["iterations"] == last),
                    "steps": int(row["steps"]),
                    "nfe": int(row["nfe"]),
                    "iterations": int(row["iterations"]),
                    "overall": [round(row[f"overall{end}"], 5) for end in ends],
                    "partial": False,
                    "tasks": {
                        task: [round(row[f"{task}{end}"], 5) for end in ends]
                        for task in TASKS
                        if not is_missing(row[task])
                    },
                }
            )
    return found, points


# ---------------------------------------------------------------- the paper


def paper_lines() -> list[dict[str, Any]]:
    """The paper's printed figures as lines: Table 2 at 300k iterations, then Table 1."""
    lines: list[dict[str, Any]] = []
    second = paper_table(2)
    for style, (_, row) in enumerate(second[second["iterations"] == "300k"].iterrows()):
        steps = [int(n.removeprefix("steps_")) for n in second.columns if n.startswith("steps_")]
        points = [{"steps": n, "overall": float(row[f"steps_{n}"])} for n in sorted(steps)]
        lines.append(_paper_line(f"Paper: {row['method']}", style + 3, points))
    for style, (method, rows) in enumerate(paper_table(1).groupby("method", sort=False)):
        tasks = ["overall", *[task for task in TASKS if task in rows.columns]]
        points = [
            {"steps": int(row["steps"]), **{task: float(row[task]) for task in tasks}}
            for _, row in rows.sort_values("steps").iterrows()
        ]
        lines.append(_paper_line(f"Paper: {method}", style + 6, points))
    return lines


def exact_lines(protocol: str, folders: Sequence[ResultFolder]) -> list[dict[str, Any]]:
    """The exact Flow Matching model and the headroom above it, of one protocol."""
    points: list[dict[str, Any]] = []
    rooms: list[dict[str, Any]] = []
    for steps, scores in sorted(exact_scores(folders).items()):
        cells = {"overall": scores.overall, **scores.tasks}
        values = {name: rounded(interval) for name, interval in cells.items() if interval}
        points.append({"steps": steps, **values})
        turned = {name: [round(1 - v[i], 5) for i in (0, 2, 1)] for name, v in values.items() if v}
        rooms.append({"steps": steps, **turned})
    if not points:
        return []
    return [
        {
            "id": short_id("exact", protocol, place),
            "kind": "exact",
            "protocol": protocol,
            "name": name,
            "style": 9 - place,
            "points": own,
        }
        for place, (name, own) in enumerate(((NAME, points), ("Headroom", rooms)))
    ]


def _paper_line(name: str, style: int, points: list[dict[str, Any]]) -> dict[str, Any]:
    identifier = short_id("paper", name, len(points))
    return {"id": identifier, "kind": "paper", "name": name, "style": style, "points": points}


def table_facts(number: int, place: int, table: Table) -> dict[str, Any]:
    """Rows that were measured, of Table 1 or 2."""
    rows = []
    for _, row in table.frame.iterrows():
        if not row["folder"]:
            continue
        name = str(row["method"]) + (" (under-trained)" if row["under_trained"] else "")
        facts: dict[str, Any] = {"method": name}
        for key in ("steps", "nfe", "iterations"):
            facts[key] = None if is_missing(row.get(key)) else int(row[key])
        facts |= {"guidance": str(row["guidance"]), "settings": str(row["settings"])}
        facts["overall"] = _ends(row, "overall", "ci_low", "ci_high")
        for task in TASKS:
            if task in row:
                facts[task] = _ends(row, task, f"{task}_low", f"{task}_high")
        paper = row.get("paper_overall" if number == 1 else "paper")
        facts["paper"] = None if is_missing(paper) else [float(paper)]
        rows.append(facts)
    words = {1: "Every model under one protocol.", 2: "The controlled ablation study."}[number]
    if any(row["paper"] for row in rows):
        words += f" The last column has the figures of the {PAPER}: another protocol."
    return {
        "id": f"table{number}-{place}",
        "title": f"Table {number}" + (f", recipe {table.recipe}" if table.recipe else ""),
        "protocol": protocol_key(table.protocol)[:10] if table.protocol else "",
        "words": words,
        "rows": rows,
    }


def _ends(row: pd.Series, *names: str) -> list[float] | None:
    values = [row[name] for name in names]
    return None if is_missing(values[0]) else [round(float(v), 5) for v in values]


def ordered(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """By name: the time at which files were last written would differ between copies."""
    return sorted(runs, key=lambda run: run.name)


def sheet_name(run: RunRecord, step: int) -> str:
    return f"{short_id('run', run.name)}-{step:08d}.png"


def run_facts(runs: Iterable[RunRecord], newest_first: bool) -> list[dict[str, Any]]:
    """Runs as the section on training shows them, in the order of `ordered`.

    Args:
        newest_first: draw those at first that were written last; else the first by name, so that
            the same runs give the same bytes wherever they lie.
    """
    found = ordered(runs)
    newest = sorted(found, key=lambda run: -run.changed_at) if newest_first else found
    newest = newest[:6]
    return [
        {
            "id": short_id("run", run.name),
            "kind": "run",
            "name": run.name,
            "state": run.state,
            "style": style,
            "usual": any(run is new for new in newest),
            "curves": run.curves,
            "sheets": [[step, sheet_name(run, step)] for step, _ in run.sheets],
        }
        for style, run in enumerate(found)
    ]
