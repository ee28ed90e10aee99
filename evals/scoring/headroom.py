"""Headroom: what a perfect Flow Matching model scores at N steps, and what is left above it.

A world can show that few steps suffice only where Flow Matching needs many. Where scenes can be
drawn, the model that has learnt everything is known over K scenes of a prompt
(`selfe.data.shapes_world.exact_model`); its score at N steps, drawn by the project's own sampler,
decoded, detected and judged, is what is lost to the number of steps alone. 1 minus it is the
headroom of any method at N steps, without guidance and on that time grid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from evals.base import TASKS, Frozen, ImageVerdict, ProtocolFacts, Scores
from evals.results import protocol_facts
from evals.scoring.detections import Row
from evals.scoring.diversity import REFERENCE_IMAGES, DiversityReference
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.suites.base import Suite
from evals.suites.rules import DEFAULT_RULES
from selfe.data.shapes_world import open_world
from selfe.generator import TextToImage

TOLERANCE = 0.01
CHECKED_IMAGES = 16
"""Images per prompt by which it is judged whether there are scenes enough: single images change
their verdict with the scenes, in both directions, and 4 images would show little but that."""


class ExactModel(TextToImage, Protocol):
    """A model over a finite number of scenes, or over all of them.

    Attributes:
        num_scenes: K; 0 where the mean is a closed form.
        scenes_in_use: effective number of scenes in the last step of every image drawn last.
    """

    num_scenes: int
    scenes_in_use: list[float]

    def with_scenes(self, count: int) -> ExactModel: ...


WHAT = "headroom"
"""What a sealed file of it says that it is."""


class HeadroomCell(Frozen):
    """One number of steps.

    Attributes:
        scores: of the exact model, on `CHECKED_IMAGES` of a prompt; in files of earlier versions
            on the protocol's number.
        headroom: 1 minus the overall score; None in files of earlier versions.
        tv, tv_data: diversity, as `evals.scoring.diversity` measures it: total variation to the
            data, and what as many images of the data have.
        scenes_in_use: median over images of the effective number of scenes in the last step.
        correct: for every prompt, in the suite's order, a character per image: "1" for a correct
            one, "0" else.
    """

    steps: int
    scores: Scores
    headroom: float | None = None
    correct: list[str] = []
    tv: float | None = None
    tv_data: float | None = None
    scenes_in_use: float


class Headroom(Frozen):
    """What `selfe-bench headroom` found.

    Attributes:
        num_scenes: K of the cells; 0 where the mean is a closed form.
        converged: whether doubling K up to it changed no cell's overall score by more than
            `tolerance`.
        overall_by_scenes: K -> overall scores of `CHECKED_IMAGES` per prompt, in the order of the
            cells: more images than the protocol has, so nearer to the truth.
        changes: of each cell by the last doubling, with its standard error over prompts.
    """

    protocol: ProtocolFacts
    sampling: dict[str, Any]
    seed: int
    num_scenes: int
    converged: bool
    tolerance: float
    overall_by_scenes: dict[int, list[float]]
    changes: list[tuple[float, float]]
    cells: list[HeadroomCell]
    environment: dict[str, Any] = {}
    command: str = ""


def measure_headroom(
    model: ExactModel,
    suite: Suite,
    steps: Sequence[int],
    *,
    most_scenes: int,
    seed: int = 0,
    signal: float = 1.0,
    tolerance: float = TOLERANCE,
    diversity: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> Headroom:
    """Double the model's scenes until no cell moves, at most up to `most_scenes`.

    Args:
        model: with the number of scenes to begin with.
        seed: of the images.

    Raises:
        ValueError: if the suite is of no world whose scenes can be drawn.
    """
    if not suite.world_preset:
        raise ValueError(
            f"{suite.name} has no scenes to draw: it needs shapes@1, shapes-free@1 or scenes@1"
        )
    checked = max(CHECKED_IMAGES, suite.images_per_prompt)
    scorer = InMemoryScorer(dataclasses.replace(suite, images_per_prompt=checked), seed)
    overall: dict[int, list[float]] = {}
    changes: list[tuple[float, float]] = []
    converged = model.num_scenes == 0
    drawn = _draw(model, scorer, steps, overall, progress)
    while not converged and 2 * model.num_scenes <= most_scenes:
        before, model = drawn, model.with_scenes(2 * model.num_scenes)
        drawn = _draw(model, scorer, steps, overall, progress)
        changes = [change(a.verdicts, b.verdicts) for a, b in zip(before, drawn, strict=True)]
        converged = max(abs(moved) for moved, _ in changes) <= tolerance
    reference = None
    if diversity:
        reference = DiversityReference(
            open_world(suite.world_preset),
            suite.records,
            scorer.detector,
            scorer.color_classifier,
            images_per_prompt=max(REFERENCE_IMAGES, 2 * suite.images_per_prompt),
        )
    return Headroom(
        protocol=protocol_facts(
            suite,
            suite.images_per_prompt,
            scorer.detector,
            scorer.color_classifier,
            DEFAULT_RULES,
            signal=signal,
        ),
        sampling=dict(model.sampling_at(steps[0])),
        seed=seed,
        num_scenes=model.num_scenes,
        converged=converged,
        tolerance=tolerance,
        overall_by_scenes=overall,
        changes=changes,
        cells=[_cell(each, scorer, suite.images_per_prompt, reference) for each in drawn],
    )


class _Drawn(NamedTuple):
    """What was found on `CHECKED_IMAGES` images per prompt at one number of steps."""

    steps: int
    verdicts: list[ImageVerdict]
    rows: list[Row]
    scenes_in_use: float


def _draw(
    model: ExactModel,
    scorer: InMemoryScorer,
    steps: Sequence[int],
    overall: dict[int, list[float]],
    progress: Callable[[str], None],
) -> list[_Drawn]:
    """Draw and judge at every number of steps; enters the overall scores into `overall`."""
    drawn = [
        _Drawn(n, scorer(model, n), scorer.rows, float(np.median(model.scenes_in_use)))
        for n in steps
    ]
    scores = [mean_over_tasks(each.verdicts) for each in drawn]
    overall[model.num_scenes] = scores
    told = ", ".join(f"{n}: {score:.3f}" for n, score in zip(steps, scores, strict=True))
    scenes = f"{model.num_scenes} scenes" if model.num_scenes else "all scenes"
    progress(f"{scenes} of each prompt; by steps {told}")
    return drawn


def _cell(
    drawn: _Drawn, scorer: InMemoryScorer, images: int, reference: DiversityReference | None
) -> HeadroomCell:
    """Scores of all images that were drawn, as reports have them; diversity of the first `images`
    of a prompt, the protocol's number, because that of more images is another."""
    rows = [row for row in drawn.rows if row["sample_id"] < images]
    spread = reference.measure(rows) if reference is not None else {}
    return HeadroomCell(
        steps=drawn.steps,
        scores=scorer.scores(drawn.verdicts),
        headroom=1 - mean_over_tasks(drawn.verdicts),
        correct=_marks(drawn.verdicts),
        tv=spread.get("tv"),
        tv_data=spread.get("tv_data"),
        scenes_in_use=drawn.scenes_in_use,
    )


def _marks(verdicts: Sequence[ImageVerdict]) -> list[str]:
    marks: dict[int, str] = {}
    for verdict in verdicts:
        marks[verdict.prompt_id] = marks.get(verdict.prompt_id, "") + "01"[verdict.correct]
    return [marks[prompt] for prompt in sorted(marks)]


def change(a: Sequence[ImageVerdict], b: Sequence[ImageVerdict]) -> tuple[float, float]:
    """Overall score of `b` minus that of `a` over the same images, and its standard error over
    prompts."""
    by_task: dict[str, dict[int, list[int]]] = {}
    for old, new in zip(a, b, strict=True):
        prompts = by_task.setdefault(new.tag, {})
        prompts.setdefault(new.prompt_id, []).append(int(new.correct) - int(old.correct))
    means = [[float(np.mean(d)) for d in prompts.values()] for prompts in by_task.values()]
    variances = [np.var(m, ddof=1) / len(m) for m in means if len(m) > 1]
    error = math.sqrt(sum(variances)) / len(means)
    return float(np.mean([np.mean(m) for m in means])), error


def table_rows(found: Headroom) -> list[dict[str, str]]:
    """A row for every number of steps, by the titles of the columns."""
    tasks = [task for task in TASKS if task in found.cells[0].scores.tasks]
    rows = []
    for cell in found.cells:
        overall = cell.scores.overall
        assert overall is not None and cell.headroom is not None
        rows.append(
            {
                "steps": str(cell.steps),
                "exact": f"{overall.mean:.3f} [{overall.low:.3f}, {overall.high:.3f}]",
                "headroom": f"{cell.headroom:.3f}",
                **{task: f"{cell.scores.tasks[task].mean:.3f}" for task in tasks},
                "TV": "" if cell.tv is None else f"{cell.tv:.3f}",
                "TV of data": "" if cell.tv_data is None else f"{cell.tv_data:.3f}",
                "scenes": f"{cell.scenes_in_use:.1f}",
            }
        )
    return rows


def reading_words(found: Headroom) -> list[str]:
    """What must be known to read the table, a paragraph each."""
    protocol = found.protocol
    runs = sorted(found.overall_by_scenes)
    settled = (
        f"doubling to {found.num_scenes} changed no cell by more than {found.tolerance:g}"
        if found.converged
        else f"NOT SETTLED: {found.num_scenes} is the most that was allowed"
    )
    if found.changes:
        moved, error = max(found.changes, key=lambda pair: abs(pair[0]))
        settled += f" (largest change {moved:+.3f}, standard error {error:.3f})"
    scenes = f"K scenes of each prompt: {', '.join(map(str, runs))}; {settled}."
    if not found.num_scenes:
        scenes = "The mean over all scenes is a closed form; nothing is left to settle."
    settings = found.sampling
    grid = f"shift {settings['shift']:.3f}" if "shift" in settings else "the recipe's shift"
    if not settings["warp"]:
        grid = "evenly spaced times"
    return [
        "exact: the score of a Flow Matching model that has learnt this world perfectly.",
        f"{protocol.suite}, {protocol.split or 'whole suite'}, {protocol.num_prompts} prompts x "
        f"{max(CHECKED_IMAGES, protocol.images_per_prompt)} images, seed {found.seed}; latents "
        f"times {protocol.signal:g}; {grid}, eta {settings['eta']:g}, {settings['update']}, "
        "no guidance.",
        scenes,
        f"TV, of {protocol.images_per_prompt} images of a prompt, is the total variation of what "
        "captions leave open to that of the data, beside what as many images of the data have. "
        "Scenes is the median over images of the effective number "
        "of scenes in the last step: near 1 the image is one of the K scenes.",
    ]
