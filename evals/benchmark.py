"""One model, one number of steps, one suite: images drawn, detected, judged, and written down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.base import TASKS, ColorClassifier, Detector, ModelFacts, Result, SamplingFacts
from evals.detections import read_detections
from evals.diversity import REFERENCE_IMAGES, DiversityReference
from evals.generate import draw_images
from evals.images import folder_numbers, scan_folder
from evals.processes import Processes
from evals.registry import open_color_classifier, open_detector, open_suite
from evals.results import RESULT, model_facts, protocol_facts, read_result, write_result
from evals.rules import DEFAULT_RULES
from evals.score import DETECTIONS, score_folder
from evals.suites.base import Suite
from selfe.data.shapes_world import ShapesWorld
from selfe.files import folder_lock
from selfe.generator import TextToImage
from selfe.provenance import provenance

Progress = Callable[[str, int, int], None]

IMAGES_PER_SAVE = 32
"""Images that are detected between two saves, where no batch size is asked for."""


def limited(suite: Suite, per_task: int | None) -> Suite:
    """The first `per_task` prompts of every task: a smaller protocol, never mixed with the whole.

    Raises:
        ValueError: if `per_task` is below 1.
    """
    if per_task is None:
        return suite
    kept = _places_kept(suite, per_task)
    place = {old: new for new, old in enumerate(kept)}
    groups = {
        name: tuple(place[i] for i in members if i in place)
        for name, members in suite.groups.items()
    }
    return dataclasses.replace(
        suite,
        records=[suite.records[i] for i in kept],
        groups={name: members for name, members in groups.items() if members},
    )


def _places_kept(suite: Suite, per_task: int) -> list[int]:
    if per_task < 1:
        raise ValueError(f"--limit must be at least 1 prompt per task, got {per_task}")
    kept: list[int] = []
    for task in TASKS:
        kept += [i for i, r in enumerate(suite.records) if r["tag"] == task][:per_task]
    return sorted(kept)


def result_folder(
    root: Path, suite: Suite, generator: TextToImage, num_steps: int, seed: int
) -> Path:
    """Where a result lies: named by suite, split and steps, and by a digest of what else decides
    the images, so that other settings never overwrite it."""
    decisive: list[Any] = [
        generator.facts.digest,
        dict(generator.sampling_at(num_steps)),
        seed,
        suite.images_per_prompt,
        suite.prompts_sha256,
    ]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]
    name = "-".join(part for part in (suite.name, suite.split) if part)
    return root / name / f"steps-{num_steps:03d}-{digest}"


def sampling_facts(generator: TextToImage, num_steps: int, seed: int) -> SamplingFacts:
    return SamplingFacts(
        steps=num_steps,
        nfe=generator.nfe(num_steps),
        seed=seed,
        settings=dict(generator.sampling_at(num_steps)),
    )


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """What a user may choose of a benchmark run.

    Attributes:
        split, prompts, limit, images_per_prompt, detector: None or "" for the suite's own.
        seed: of the images.
        device: of the detector.
        batch_size: images per detector call; None for the detector's own.
        allow_partial: score sets that are not complete, marked as such.
        command: recorded in the result.
        processes: drawing and detection are shared among them; process 0 judges.
    """

    split: str = ""
    prompts: Path | None = None
    limit: int | None = None
    images_per_prompt: int | None = None
    seed: int = 0
    detector: str | None = None
    device: str = "cpu"
    batch_size: int | None = None
    allow_partial: bool = False
    command: str = ""
    processes: Processes = Processes()

    def open_suite(self, name: str) -> Suite:
        suite = limited(open_suite(name, self.split, self.prompts), self.limit)
        if self.images_per_prompt is not None:
            suite = dataclasses.replace(suite, images_per_prompt=self.images_per_prompt)
        if self.detector is not None and self.detector != suite.detector:
            suite = dataclasses.replace(suite, detector=self.detector, detector_options={})
        return suite


def score_model(
    generator: TextToImage,
    num_steps: int,
    suite_name: str,
    root: Path,
    settings: BenchmarkSettings,
    progress: Progress,
) -> tuple[Path, Result] | None:
    """Draw and score one model at one number of steps below `root`; goes on where it was.

    Returns:
        The result folder and the result on process 0, None on the others.

    Raises:
        ValueError: for an unknown suite or detector, missing weights, a set that is not complete,
            or a folder another process works on.
    """
    suite = settings.open_suite(suite_name)
    folder = result_folder(root, suite, generator, num_steps, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    if not (_scores_folder(folder, suite, settings) / RESULT).exists():
        _require_parts(suite)
    name = f"{generator.facts.label} {generator.facts.variant}".strip()
    title = f"{name}, {num_steps} steps"
    with folder_lock(folder, _lock_name(settings.processes)):
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
        )
        settings.processes.wait()
        truncated = generator.count_truncated([r["prompt"] for r in suite.records])
        return _score(
            folder,
            _scores_folder(folder, suite, settings),
            suite,
            settings,
            model_facts(generator.facts),
            sampling_facts(generator, num_steps, settings.seed),
            title,
            progress,
            truncated=truncated,
            cost=meter.cost(),
        )


_found: set[tuple[str, str]] = set()


def _require_parts(suite: Suite) -> None:
    """Raises before hours of drawing, not after them, where weights or packages are missing."""
    parts = (suite.detector, suite.color_classifier)
    if parts not in _found:
        open_detector(suite.detector, device="cpu", **dict(suite.detector_options))
        open_color_classifier(suite.color_classifier, device="cpu")
        _found.add(parts)


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
    place = hashlib.sha256(str(images.resolve()).encode()).hexdigest()[:8]
    name = images.resolve().name
    protocol = f"{len(suite.records)}x{suite.images_per_prompt}-{suite.prompts_sha256[:6]}"
    out = runs_dir / "images" / f"{name}-{place}"
    out /= "-".join(filter(None, (suite.name, suite.split, protocol)))
    out.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(images, suite_name, suite, settings)
    scanned = scan_folder(images, suite.records, suite.images_per_prompt, numbers=numbers)
    scores = _scores_folder(out, suite, settings)
    earlier = _earlier(scores)
    if scanned.problems and earlier is not None and not earlier.scores.partial:
        raise ValueError(
            f"{images} was complete when {scores} was made from it and is not any more "
            f"({scanned.problems[0]}): mend it, or score what is left from a copy"
        )
    found = scanned.images
    contents = hashlib.sha256("".join(image.digest for image in found).encode()).hexdigest()
    sizes = [image.size for image in found if image.path is not None] or [(0, 0)]
    facts = ModelFacts(
        name=str(images), label=name, method="images", digest=contents, resolution=sizes[0][::-1]
    )
    with folder_lock(out, _lock_name(settings.processes)):
        return _score(
            images,
            scores,
            suite,
            settings,
            facts,
            SamplingFacts(steps=0, nfe=0, seed=settings.seed),
            name,
            progress,
            numbers=numbers,
        )


def _numbers(
    images: Path, suite_name: str, suite: Suite, settings: BenchmarkSettings
) -> Sequence[int] | None:
    """Which folder holds which prompt of a limited suite; None for one after the other."""
    if settings.limit is None or max(folder_numbers(images), default=0) < len(suite.records):
        return None
    return _places_kept(open_suite(suite_name, settings.split, settings.prompts), settings.limit)


def _lock_name(processes: Processes) -> str:
    return ".lock" if processes.rank == 0 else f".lock-{processes.rank}"


def _scores_folder(folder: Path, suite: Suite, settings: BenchmarkSettings) -> Path:
    """Beside the images, or in a folder of its own for a detector that is not the suite's."""
    usual = open_suite(suite.name, settings.split, settings.prompts).detector
    if settings.detector in (None, usual):
        return folder
    return folder / f"detector-{suite.detector}"


def _score(
    images: Path,
    out: Path,
    suite: Suite,
    settings: BenchmarkSettings,
    model: ModelFacts,
    sampling: SamplingFacts,
    title: str,
    progress: Progress,
    *,
    truncated: dict[str, int] | None = None,
    cost: dict[str, float] | None = None,
    numbers: Sequence[int] | None = None,
) -> tuple[Path, Result] | None:
    options = dict(suite.detector_options)
    if settings.batch_size is not None:
        options["batch_size"] = settings.batch_size
    detector = open_detector(suite.detector, device=settings.device, **options)
    classifier = open_color_classifier(suite.color_classifier, device=settings.device)
    scored = score_folder(
        images,
        suite.records,
        detector,
        classifier,
        out,
        images_per_prompt=suite.images_per_prompt,
        groups=suite.groups,
        allow_partial=settings.allow_partial,
        batch_size=settings.batch_size or IMAGES_PER_SAVE,
        progress=lambda done, total: progress(f"{title}: scoring", done, total),
        color_every_class=bool(suite.world_preset),  # diversity looks at all of them
        lock=False,  # the result folder is held already
        rank=settings.processes.rank,
        world_size=settings.processes.world_size,
        barrier=settings.processes.wait,
        numbers=numbers,
    )
    if scored is None:
        return None
    earlier = _earlier(out)
    if (
        not cost and earlier is not None
    ):  # all images were found: what was measured at their drawing
        cost = earlier.cost
    result = Result(
        protocol=protocol_facts(
            suite,
            suite.images_per_prompt,
            detector,
            classifier,
            DEFAULT_RULES,
            model.training.get("signal", 1.0),
        ),
        model=model,
        sampling=sampling,
        scores=scored.scores,
        diversity=_diversity(suite, detector, classifier, out),
        truncated_prompts=truncated or {},
        cost=cost or {},
        environment=provenance(),
        command=settings.command,
    )
    if earlier is not None and not _changed(earlier, result):
        return out, earlier
    write_result(out, result)
    return out, result


_references: dict[tuple[str, str], DiversityReference] = {}


def _diversity(
    suite: Suite, detector: Detector, classifier: ColorClassifier, out: Path
) -> dict[str, Any]:
    """What GenEval cannot see, where the world knows its nuisance factors; {} elsewhere."""
    if not suite.world_preset:
        return {}
    key = (suite.prompts_sha256, detector.identity)
    if key not in _references:  # the data's side is the same for every model and number of steps
        world = ShapesWorld(suite.world_preset)
        images = max(REFERENCE_IMAGES, 2 * suite.images_per_prompt)
        _references[key] = DiversityReference(
            world, suite.records, detector, classifier, images_per_prompt=images
        )
    return _references[key].measure(read_detections(out / DETECTIONS))


def _earlier(folder: Path) -> Result | None:
    """The result there; None where there is none that can be read: it is made again."""
    try:
        return read_result(folder)
    except ValueError:
        return None


def _changed(old: Result, result: Result) -> bool:
    """Whether anything differs but when, where and by which command it was found again."""
    incidental = {"environment", "command", "cost"}
    return old.model_dump(exclude=incidental) != result.model_dump(exclude=incidental)
