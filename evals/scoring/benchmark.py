"""One model, one number of steps, one suite: images drawn, detected, judged, and written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from evals.base import ModelFacts, Result, SamplingFacts
from evals.images import ImageFolder, folder_numbers, scan_folder
from evals.results import (
    DETECTIONS,
    VERDICTS,
    model_facts,
    protocol_facts,
    read_result,
    write_result,
)
from evals.scoring.detect import DetectionParts
from evals.scoring.detections import read_detections
from evals.scoring.draw import draw_images
from evals.scoring.folders import facts_of_images, own_folder, result_folder, sampling_facts
from evals.scoring.score import score_folder
from evals.scoring.settings import BenchmarkSettings
from evals.suites.base import Suite
from evals.suites.limit import places_kept
from evals.suites.rules import DEFAULT_RULES
from selfe.files import file_sha256, folder_lock
from selfe.foreign_text import file_name
from selfe.generator import TextToImage
from selfe.provenance import provenance
from selfe.temporaries import remove_leftovers

Progress = Callable[[str, int, int], None]

IMAGES_PER_SAVE = 32
"""Images that are detected between two saves, where no batch size is asked for."""


def score_model(
    generator: TextToImage,
    num_steps: int,
    suite_name: str,
    root: Path,
    settings: BenchmarkSettings,
    progress: Progress,
    drawn: Path | None = None,
) -> tuple[Path, Result] | None:
    """Draw and score one model at one number of steps below `root`; continues what was interrupted.

    Args:
        drawn: folder that already holds the images of these prompts, drawn for another suite.

    Returns:
        The result folder and the result on process 0, None on the others.

    Raises:
        ValueError: for an unknown suite or detector, missing weights, a set that is not complete,
            or a folder another process works on.
    """
    suite = settings.open_suite(suite_name)
    refuse_judged(suite)
    folder = result_folder(root, suite, generator, num_steps, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    settings.scorers.open(suite)  # what is missing is said before hours of drawing
    name = f"{generator.facts.label} {generator.facts.variant}".strip()
    title = f"{name}, {num_steps} steps"
    with folder_lock(folder, settings.processes.lock_name):
        if settings.processes.rank == 0:
            remove_leftovers(folder, deep=True)
        out = _scores_folder(folder, suite, settings)
        earlier = _earlier(out)
        cost: dict[str, float] = {}
        if drawn is None:
            cost = draw_suite(generator, num_steps, suite, folder, settings, title, progress)
        images = drawn or folder
        found = scan_folder(images, suite.records, suite.images_per_prompt, image_set=images.name)
        facts = ResultFacts(
            model_facts(generator.facts),
            sampling_facts(generator, num_steps, settings.seed),
            _truncated(generator, suite, earlier),
            cost,
        )
        return _score(found, out, suite, facts, settings, title, progress)


def _truncated(generator: TextToImage, suite: Suite, earlier: Result | None) -> dict[str, int]:
    """How many prompts each text encoder cuts: as an earlier result of the same weights and prompts
    says, because counting opens the encoders."""
    if (
        earlier is not None
        and earlier.model.digest == generator.facts.digest
        and earlier.protocol.prompts_sha256 == suite.prompts_sha256
    ):
        return earlier.truncated_prompts
    return generator.count_truncated([record["prompt"] for record in suite.records])


def draw_suite(
    generator: TextToImage,
    num_steps: int,
    suite: Suite,
    folder: Path,
    settings: BenchmarkSettings,
    title: str,
    progress: Progress,
) -> dict[str, float]:
    """Draw what is missing of a suite's images; returns once all processes have drawn.

    Returns:
        What drawing cost, as `Result.cost` records it; {} where nothing was drawn.
    """
    meter = draw_images(
        generator,
        suite.records,
        num_steps=num_steps,
        images_per_prompt=suite.images_per_prompt,
        seed=settings.seed,
        folder=folder,
        progress=lambda done, total: progress(f"{title}: drawing", done, total),
        rank=settings.processes.rank,
        world_size=settings.processes.world_size,
        image_set=folder.name,
    )
    settings.processes.wait()
    return meter.cost()


def refuse_judged(suite: Suite) -> None:
    """Raises ValueError for a suite without a detector; says which command scores it."""
    if suite.judge:
        raise ValueError(
            f"{suite.name} is scored by a judge, not by a detector: use "
            f"`selfe-bench measure --suite {suite.name} --prompts {suite.name}=FILE`"
        )


def score_images(
    images: Path,
    suite_name: str,
    runs_dir: Path,
    settings: BenchmarkSettings,
    progress: Progress,
) -> tuple[Path, Result] | None:
    """Score a folder in GenEval's layout made by anything; results go below `runs_dir`/images.

    With a limit, the folder may be numbered by the whole suite or by the prompts that are left.

    Returns:
        As `score_model`.

    Raises:
        ValueError: as `score_model`, and if the folder does not exist.
    """
    if not images.is_dir():
        raise ValueError(f"no folder of images at {images}")
    suite = settings.open_suite(suite_name)
    refuse_judged(suite)
    out = own_folder(images, suite, runs_dir)
    out.mkdir(parents=True, exist_ok=True)
    numbers = numbers_kept(images, suite_name, suite, settings)
    scanned = scan_folder(images, suite.records, suite.images_per_prompt, numbers=numbers)
    scores = _scores_folder(out, suite, settings)
    earlier = _earlier(scores)
    if scanned.problems and earlier is not None and not earlier.scores.partial:
        raise ValueError(
            f"{images} was complete when {scores} was made from it and no longer is "
            f"({scanned.problems[0]}): correct it, or score what is left from a copy"
        )
    facts = ResultFacts(
        facts_of_images(images, scanned.images),
        SamplingFacts(steps=0, nfe=0, seed=settings.seed),
    )
    with folder_lock(out, settings.processes.lock_name):
        if settings.processes.rank == 0:
            remove_leftovers(out, deep=True)
        return _score(scanned, scores, suite, facts, settings, images.resolve().name, progress)


def numbers_kept(
    images: Path, suite_name: str, suite: Suite, settings: BenchmarkSettings
) -> Sequence[int] | None:
    """Which folder holds which prompt of a limited suite; None for one after the other."""
    if settings.limit is None or max(folder_numbers(images), default=0) < len(suite.records):
        return None
    return places_kept(settings.whole_suite(suite_name), settings.limit)


def _scores_folder(folder: Path, suite: Suite, settings: BenchmarkSettings) -> Path:
    """Beside the images, or in a folder of its own for a detector or colour classifier that is not
    the suite's."""
    usual = settings.whole_suite(suite.name)
    name = "-".join(
        f"{kind}-{file_name(chosen)}"
        for kind, chosen, own in (
            ("detector", suite.detector, usual.detector),
            ("colors", suite.color_classifier, usual.color_classifier),
        )
        if chosen != own
    )
    return folder / name if name else folder


@dataclasses.dataclass(frozen=True)
class ResultFacts:
    """What a result records beside its scores.

    Attributes:
        model, sampling: see `evals.base.Result`.
        truncated_prompts: text encoder -> prompts that it cut.
        cost: of drawing (`Result.cost`); {} where nothing was drawn now.
    """

    model: ModelFacts
    sampling: SamplingFacts
    truncated_prompts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    cost: Mapping[str, float] = dataclasses.field(default_factory=dict)


def _score(
    images: ImageFolder,
    out: Path,
    suite: Suite,
    facts: ResultFacts,
    settings: BenchmarkSettings,
    title: str,
    progress: Progress,
) -> tuple[Path, Result] | None:
    """Score images under the lock of their result folder and write result.json to `out`."""
    scorer = settings.scorers.open(suite)
    # diversity looks at the colours of all classes
    parts = DetectionParts(scorer.detector, scorer.color_classifier, bool(suite.world_preset))
    scored = score_folder(
        images,
        suite.records,
        parts,
        out,
        groups=suite.groups,
        allow_partial=settings.allow_partial,
        batch_size=settings.batch_size or IMAGES_PER_SAVE,
        progress=lambda done, total: progress(f"{title}: scoring", done, total),
        lock=False,
        processes=settings.processes,
    )
    if scored is None:
        return None
    earlier = _earlier(out)
    cost = dict(facts.cost)
    if not cost and earlier is not None:  # all images were found: as measured when drawn
        cost = earlier.cost
    result = Result(
        protocol=protocol_facts(
            suite,
            suite.images_per_prompt,
            scorer.detector,
            scorer.color_classifier,
            DEFAULT_RULES,
            facts.sampling.settings,
            signal=facts.model.training.get("signal", 1.0),
        ),
        model=facts.model,
        sampling=facts.sampling,
        scores=scored.scores,
        diversity=scorer.diversity(suite, read_detections(out / DETECTIONS)),
        truncated_prompts=dict(facts.truncated_prompts),
        cost=cost,
        command=settings.command,
        files={name: file_sha256(out / name) for name in (DETECTIONS, VERDICTS)},
    )
    if earlier is not None and not _changed(earlier, result):
        return out, earlier
    result = result.model_copy(update={"environment": provenance()})
    write_result(out, result)
    return out, result


def _earlier(folder: Path) -> Result | None:
    """The result in a folder; None where there is none that can be read, so that it is made
    again."""
    try:
        return read_result(folder)
    except ValueError:
        return None


def _changed(old: Result, result: Result) -> bool:
    """Whether anything differs except time, machine and command."""
    incidental = {"environment", "command", "cost"}
    return old.model_dump(exclude=incidental) != result.model_dump(exclude=incidental)
