"""What all tables share: one row per result, which result a row shows, notes, paper figures."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import pandas as pd

from evals.base import TASKS, ProtocolFacts
from evals.report.commands import overrides_settings
from evals.report.model_columns import eta_of, guidance_text, setting_text
from evals.report.result_folders import ResultFolder
from evals.stats import Difference

PAPER = "paper (BAGEL protocol, prompt set not stated)"
# Published weights of GenEval's detector: the eight characters are the start of their sha256.
_OFFICIAL_WEIGHTS = ("743b7d99", "c9d0c4f2")
ERRATUM = "Erratum of the paper"
"""How notes on misprints begin."""
PAPER_SUITE = "geneval-long@1"
"""The protocol of the paper's tables, as far as it is stated (`page.LONG_PROMPTS_EVIDENCE`)."""
_GENEVAL_IMAGES = (553, 4)
TASK_ENDS = tuple(f"{task}_{end}" for task in TASKS for end in ("low", "high"))
"""Columns of the ends of the tasks' intervals."""


@dataclass(frozen=True)
class Table:
    """One table of one protocol.

    Attributes:
        frame: a row per method, iterations and steps; more columns than the CSV has.
        protocol: shared by all rows; None where nothing was measured.
        recipe: training recipe of the rows of Table 2.
        notes: what a reader must know: partial sets, under-trained models, results left out.
        statements: the ordering in words, one per number of steps.
        other_weights: whether what was measured are models drawn with other weights than those
            they are named after.
        lists_not_run: whether its page lists the commands of rows that were not run.
    """

    frame: pd.DataFrame
    protocol: ProtocolFacts | None
    recipe: str = ""
    notes: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    other_weights: bool = False
    lists_not_run: bool = True

    @property
    def partial(self) -> bool:
        return bool(self.frame["partial"].any())


@functools.cache
def paper_table(number: int) -> pd.DataFrame:
    """The paper's printed figures."""
    source = resources.files("evals") / "assets" / f"paper_table{number}.csv"
    with source.open() as stream:
        return pd.read_csv(stream, keep_default_na=True)


def follows_paper_protocol(protocol: ProtocolFacts | None) -> bool:
    """GenEval in full under weights of its official detector: what the paper may stand against."""
    if protocol is None:
        return False
    size = (protocol.num_prompts, protocol.images_per_prompt)
    official = any(weights in protocol.detector for weights in _OFFICIAL_WEIGHTS)
    whole = protocol.suite == PAPER_SUITE and not protocol.split and size == _GENEVAL_IMAGES
    return whole and official and "unpublished" not in protocol.detector


def _preference(folder: ResultFolder) -> tuple[Any, ...]:
    """Which of several results of one model at one number of steps a table shows: the model's own
    settings before others, never by score."""
    settings = folder.result.sampling.settings
    overridden = overrides_settings(folder.result.command)
    usual = not settings.get("s_fraction") and settings.get("update") != "minfm"
    # velocities that were asked for at s < t, where they were never trained, after those that were
    # not: only the latter say that s = t
    at_t = settings.get("s") == "t"
    # of two settings the same at every training seed: else a mean over seeds would mix them
    which = json.dumps(settings, sort_keys=True)
    return (folder.result.scores.partial, overridden, not usual, not at_t, which, folder.name)


Cell = tuple[str, str, int | None, int]
"""(method, variant, iterations, steps); Table 1 has the model's row in place of the method."""


def cell_of(folder: ResultFolder) -> Cell:
    model = folder.result.model
    return (model.method, model.variant, model.iterations, folder.result.sampling.steps)


def training_of(folder: ResultFolder) -> tuple[Any, ...]:
    """What tells one trained model from another of the same method and length."""
    model = folder.result.model
    facts = model.training
    if "config_digest" in facts:
        # "auto" precision is the machine's: bf16 and fp32 are two trainings
        told = (facts.get(name) for name in ("seed", "init_from", "precision"))
        return (facts["config_digest"], folder.data.cache, *told)
    return (model.digest,)


def configuration_of(folder: ResultFolder) -> tuple[str, str, str] | None:
    """What trainings share whose mean may be taken; None of forks, and where it is not recorded."""
    facts = folder.result.model.training
    if "seedless_digest" not in facts or facts.get("init_from") is not None:
        return None
    return facts["seedless_digest"], str(facts.get("precision", "")), folder.data.cache


def only_the_seed_differs(a: ResultFolder, b: ResultFolder) -> bool:
    return configuration_of(a) is not None and configuration_of(a) == configuration_of(b)


def one_training_a_row(
    folders: Iterable[ResultFolder], notes: list[str], key_of: Callable[[ResultFolder], Cell]
) -> list[ResultFolder]:
    """The results without those of models that another one stands for; a note names them.

    Figures of a row are compared with each other, so they must be of one model. Shown is the one
    measured at most numbers of steps, then with most results in all, then one trained as its recipe
    says, not forked, with the lowest seed; never the one with the best score.
    """
    rows: dict[tuple[Any, ...], dict[tuple[Any, ...], list[ResultFolder]]] = {}
    results: Counter[tuple[Any, ...]] = Counter()
    for folder in folders:
        results[training_of(folder)] += 1
        row = rows.setdefault(key_of(folder)[:3], {})
        row.setdefault(training_of(folder), []).append(folder)

    def preference(found: list[ResultFolder]) -> tuple[Any, ...]:
        facts = found[0].result.model.training
        steps = {folder.result.sampling.steps for folder in found}
        return (
            -len(steps),
            -results[training_of(found[0])],
            found[0].changed != (),
            facts.get("init_from") is not None,
            facts.get("seed", 0),
            min(folder.name for folder in found),
        )

    kept = []
    for trainings in rows.values():
        first, *others = sorted(trainings.values(), key=preference)
        kept += first
        model = first[0].result.model
        label = f"{model.label} ({model.variant})" if model.variant else model.label
        seeds = [
            other[0].result.model.training["seed"]
            for other in others
            if only_the_seed_differs(first[0], other[0])
        ]
        if seeds:
            notes.append(
                f"{label} was trained with seeds {', '.join(map(str, sorted(seeds)))} too: shown "
                f"is seed {model.training['seed']}; trainings.md has the means where steps and "
                "sampling agree."
            )
        for other in others:
            if only_the_seed_differs(first[0], other[0]):
                continue
            names = ", ".join(f"`{folder.name}`" for folder in other)
            notes.append(
                f"ANOTHER TRAINING: {label}, of other settings, seed or origin than "
                f"`{first[0].name}`, is not shown: {names}."
            )
    return kept


def choose(
    folders: Iterable[ResultFolder],
    notes: list[str],
    key_of: Callable[[ResultFolder], Cell] = cell_of,
) -> dict[Cell, ResultFolder]:
    """One result per cell, of one model per row; notes name the others."""
    cells: dict[Cell, list[ResultFolder]] = {}
    for folder in one_training_a_row(folders, notes, key_of):
        cells.setdefault(key_of(folder), []).append(folder)
    chosen = {}
    elsewhere = 0
    for key, found in cells.items():
        first, *others = sorted(found, key=_preference)
        chosen[key] = first
        for other in others:
            if other.result.sampling.settings != first.result.sampling.settings:
                elsewhere += 1
                continue
            notes.append(
                f"{other.result.model.label} at {key[3]} steps was measured more than once: shown "
                f"is `{first.name}`, not `{other.name}`."
            )
    if elsewhere:
        notes.append(
            f"{elsewhere} results with other sampling settings are listed in README.md, not here."
        )
    return chosen


def measured_row(folder: ResultFolder, label: str) -> dict[str, Any]:
    """The columns that every table takes from one result."""
    result = folder.result
    scores = result.scores
    overall = scores.overall
    marked = f"{label} (partial)" if scores.partial else label
    return {
        "method": marked,
        "iterations": result.model.iterations,
        "steps": result.sampling.steps,
        "nfe": result.sampling.nfe,
        "guidance": guidance_text(result),
        "eta": eta_of(result),
        "settings": setting_text(result),
        "overall": overall.mean if overall else None,
        "ci_low": overall.low if overall else None,
        "ci_high": overall.high if overall else None,
        **{task: scores.tasks[task].mean for task in TASKS if task in scores.tasks},
        **{
            f"{task}_{end}": getattr(scores.tasks[task], end)
            for task in TASKS
            if task in scores.tasks
            for end in ("low", "high")
        },
        "failed": scores.num_failed,
        "partial": scores.partial,
        "under_trained": folder.under_trained,
        "folder": folder.name,
        "command": "",
    }


def missing_row(label: str, iterations: int | None, steps: int, command: str) -> dict[str, Any]:
    return {
        "method": label,
        "iterations": iterations,
        "steps": steps,
        "guidance": "",
        "settings": "",
        "partial": False,
        "under_trained": "",
        "folder": "",
        "command": command,
    }


def reading_notes(folders: Iterable[ResultFolder]) -> list[str]:
    """Partial sets, other weights, prompts cut, failed images and under-trained models among the
    rows shown."""
    notes = []
    for folder in folders:
        result = folder.result
        label, steps = result.model.label, result.sampling.steps
        if result.model.variant:
            label += f" ({result.model.variant})"
        if result.scores.partial:
            protocol = result.protocol
            expected = protocol.num_prompts * protocol.images_per_prompt
            notes.append(
                f"PARTIAL: {label} at {steps} steps: {result.scores.num_images} of {expected} "
                "images; compared with nothing."
            )
        if folder.changed and not folder.told_apart:
            notes.append(f"SETTINGS: {label} was trained with {', '.join(folder.changed)}.")
        if result.model.other_weights:
            size = f", {result.model.parameters:,} parameters" if result.model.parameters else ""
            notes.append(f"OTHER WEIGHTS: {label}: {result.model.other_weights}{size}.")
        for encoder, count in result.truncated_prompts.items():
            if count:
                notes.append(
                    f"{label}: {count} of {result.protocol.num_prompts} prompts are longer than "
                    f"its text encoder {encoder} reads, and were cut."
                )
        if result.scores.num_failed:
            notes.append(
                f"{label} at {steps} steps: {result.scores.num_failed} images were not finite and "
                "count as wrong."
            )
        if folder.under_trained:
            notes.append(f"UNDER-TRAINED: {label}: {folder.under_trained}")
    return list(dict.fromkeys(notes))


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    whole = [name for name in ("iterations", "steps", "nfe", "failed") if name in frame]
    numbers = [n for n in (*TASKS, *TASK_ENDS, "overall", "ci_low", "ci_high", "eta") if n in frame]
    numbers += [n for n in frame.columns if n.startswith("delta_") or n.startswith("paper_")]
    numbers = [n for n in numbers if n != "paper_errata"]
    frame = frame.astype({name: "Int64" for name in whole} | {name: "float64" for name in numbers})
    frame["partial"] = frame["partial"].fillna(False).astype(bool)
    texts = [n for n in frame.columns if frame[n].dtype == object or str(frame[n].dtype) == "str"]
    frame[texts] = frame[texts].astype(object).fillna("")
    return frame


def difference(a: ResultFolder, b: ResultFolder) -> Difference | None:
    """Overall score of a minus b, paired over prompts; None where either has no full score."""
    scores = (a.result.scores, b.result.scores)
    if any(score.partial or score.overall is None for score in scores):
        return None
    return a.minus(b)
