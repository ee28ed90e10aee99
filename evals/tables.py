"""Tables 1 and 2 of the paper from result folders, as pandas frames.

One table holds one protocol. Rows are recognised by what results say of their model: method
("selfe", "fm", "imm"), variant ("", "no-target-norm", "aux") and iterations. The long horizon of
Table 2 is the largest number of iterations that its three methods have in common, the short one
the largest at which the ablations meet a milestone of Self-E.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import pandas as pd

from evals.base import TASKS, ProtocolFacts
from evals.collection import (
    ResultFolder,
    eta_of,
    guidance_text,
    require_one_protocol,
    setting_text,
)
from evals.commands import STEPS, CommandContext, not_run, overrides_settings
from evals.pairing import overall_difference
from evals.stats import Difference

PAPER = "paper (BAGEL protocol, prompt set not stated)"
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
)
RESOLVED, NOT_RESOLVED, REFERENCE = "resolved", "not resolved", "reference"


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
# Published weights of GenEval's detector: the eight characters are the start of their sha256.
_OFFICIAL_WEIGHTS = ("743b7d99", "c9d0c4f2")
_PAPER_SUITES = ("geneval@1", "geneval-long@1")
_GENEVAL_IMAGES = (553, 4)


@dataclass(frozen=True)
class Table:
    """One table of one protocol.

    Attributes:
        frame: a row per method, iterations and steps; more columns than the CSV has.
        protocol: shared by all rows; None where nothing was measured.
        recipe: training recipe of the rows of Table 2.
        notes: what a reader must know: partial sets, under-trained models, results left out.
        statements: the ordering in words, one per number of steps.
    """

    frame: pd.DataFrame
    protocol: ProtocolFacts | None
    recipe: str = ""
    notes: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

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
    whole = protocol.suite in _PAPER_SUITES and not protocol.split and size == _GENEVAL_IMAGES
    return whole and official and "unpublished" not in protocol.detector


def _preference(folder: ResultFolder) -> tuple[Any, ...]:
    """Which of several results of one model at one number of steps a table shows: the model's own
    settings before others, never by score."""
    settings = folder.result.sampling.settings
    overridden = overrides_settings(folder.result.command)
    usual = not settings.get("s_fraction") and settings.get("update") != "minfm"
    return (folder.result.scores.partial, overridden, not usual, folder.name)


Cell = tuple[str, str, int | None, int]
"""(method, variant, iterations, steps); Table 1 has the model's row in place of the method."""


def cell_of(folder: ResultFolder) -> Cell:
    model = folder.result.model
    return (model.method, model.variant, model.iterations, folder.result.sampling.steps)


def choose(
    folders: Iterable[ResultFolder],
    notes: list[str],
    key_of: Callable[[ResultFolder], Cell] = cell_of,
) -> dict[Cell, ResultFolder]:
    """One result per cell; the others are noted."""
    cells: dict[Cell, list[ResultFolder]] = {}
    for folder in folders:
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
            f"{elsewhere} results with other sampling settings are listed in index.md, not here."
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
    """Partial sets, failed images and under-trained models among the rows shown."""
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
        if result.scores.num_failed:
            notes.append(
                f"{label} at {steps} steps: {result.scores.num_failed} images were not finite and "
                "count as wrong."
            )
        if folder.under_trained:
            notes.append(f"UNDER-TRAINED: {label}: {folder.under_trained}")
    return list(dict.fromkeys(notes))


def horizons(
    chosen: Iterable[Cell],
) -> tuple[int | None, int | None]:
    """(short, long) numbers of iterations of Table 2; None where nothing says."""
    found: dict[tuple[str, str], set[int]] = {}
    for method, variant, iterations, _ in chosen:
        if iterations is not None:
            found.setdefault((method, variant), set()).add(iterations)
    trained = [found[m, ""] for m in ("fm", "imm", "selfe") if (m, "") in found]
    common = set.intersection(*trained) if trained else set()
    every = set().union(*trained)
    long = max(common or every, default=None)
    selfe = found.get(("selfe", ""), set())
    ablations = [found[key] for key in found if key[0] == "selfe" and key[1]]
    together = set.intersection(*ablations) if ablations else set()
    ran = set().union(*ablations)
    for candidates in (together & selfe, ran & selfe, ran):
        if candidates:
            return max(candidates), long
    if long is None:
        return None, None
    earlier = [n for n in selfe if n < long]
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
    known = [f for f in folders if (f.result.model.method, f.result.model.variant) in _KINDS]
    chosen = choose(known, notes)
    short, long = horizons(chosen)
    at = {"short": short, "long": long}
    steps = sorted({key[3] for key in chosen} | set(STEPS))
    rows, shown = [], []
    for kind in TABLE2_ROWS:
        iterations = at[kind.block]
        missing = [n for n in STEPS if (kind.method, kind.variant, iterations, n) not in chosen]
        command = _table2_command(kind, context, short, long, missing, chosen)
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
                row |= _against_selfe(folder, chosen.get(("selfe", "", iterations, n)))
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


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    whole = [name for name in ("iterations", "steps", "nfe", "failed") if name in frame]
    numbers = [n for n in (*TASKS, "overall", "ci_low", "ci_high", "eta") if n in frame]
    numbers += [n for n in frame.columns if n.startswith("delta_") or n.startswith("paper_")]
    numbers = [n for n in numbers if n != "paper_errata"]
    frame = frame.astype({name: "Int64" for name in whole} | {name: "float64" for name in numbers})
    frame["partial"] = frame["partial"].fillna(False).astype(bool)
    texts = [n for n in frame.columns if frame[n].dtype == object or str(frame[n].dtype) == "str"]
    frame[texts] = frame[texts].astype(object).fillna("")
    return frame


def _table2_command(
    kind: RowKind,
    context: CommandContext,
    short: int | None,
    long: int | None,
    missing: Sequence[int],
    chosen: Mapping[Cell, ResultFolder],
) -> str:
    scored = [folder for key, folder in chosen.items() if key[:2] == (kind.method, kind.variant)]
    iterations = short if kind.block == "short" else long
    if scored and iterations is not None:
        return context.geneval(f"{run_folder(scored[0])}@{iterations}", missing or STEPS)
    if kind.block == "short" and not kind.variant:
        # a milestone of the long run, made with it
        train = context.train(kind.method).split(" && ")[0]
        run = context.run(kind.method)
        return f"{train} && {context.geneval(run, STEPS, '--milestones')}"
    if kind.block == "short":
        return context.train(kind.method, kind.variant, short, long if short else None)
    return context.train(kind.method)


def run_folder(folder: ResultFolder) -> str:
    """The training run a result belongs to, as `geneval --model` takes it."""
    run = folder.result.model.name.partition("@")[0]
    for parent in folder.path.parents:
        if parent.name == run:
            return parent.as_posix()
    return run


def _paper_overall(kind: RowKind, steps: int) -> float | None:
    frame = paper_table(2)
    if steps not in STEPS:
        return None
    match = (frame["method"] == kind.paper_method) & (frame["iterations"] == kind.paper_iterations)
    return float(frame.loc[match, f"steps_{steps}"].iloc[0])


def difference(a: ResultFolder, b: ResultFolder) -> Difference | None:
    """Overall score of a minus b, paired over prompts; None where either has no full score."""
    scores = (a.result.scores, b.result.scores)
    if any(score.partial or score.overall is None for score in scores):
        return None
    return overall_difference(a.verdicts, b.verdicts)


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
    """The three methods at one number of steps, best first, each step down resolved or not."""
    found = [chosen.get((method, "", iterations, steps)) for method in ("selfe", "imm", "fm")]
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
        mark = RESOLVED if delta.resolved else NOT_RESOLVED
        sign = ">" if better[0] > worse[0] else "="
        text += f" {sign} {_name_score(worse)} ({mark})"
    return text + "."


def _name_score(pair: tuple[float, ResultFolder]) -> str:
    label = pair[1].result.model.label
    return f"{label}{' (under-trained)' if pair[1].under_trained else ''} {pair[0]:.3f}"
