"""One model on all suites and measures that were chosen, each set of prompts drawn once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from evals.base import Interval, ModelFacts, SamplingFacts
from evals.images import scan_folder
from evals.judges.base import VisualJudge
from evals.measure import DrawnImages, Finding, Measure, MeasureOptions
from evals.measurements import (
    ACCURACY,
    MEASURES,
    Instrument,
    Measurement,
    image_set,
    images_problem,
    measurement_path,
    read_measurement,
    with_images,
    write_measurement,
)
from evals.registry import open_judge, open_measure
from evals.results import model_facts
from evals.scoring.benchmark import Progress, draw_suite, numbers_kept, score_images, score_model
from evals.scoring.folders import facts_of_images, own_folder, result_folder, sampling_facts
from evals.scoring.judged import judge_folder
from evals.scoring.settings import BenchmarkSettings
from evals.suites.base import Suite
from selfe.files import folder_lock
from selfe.generator import TextToImage
from selfe.provenance import provenance


@dataclass
class Instruments:
    """Judges and measures, opened once for all models and step counts.

    Args:
        measures: names in `evals.registry.MEASURES`.
        options: of the measures.
        judge: name of another judge than the suites' own, "" for theirs.
        judge_options: of the judge, as `--judge-arg` gives them.
    """

    measures: Sequence[str]
    options: MeasureOptions
    judge: str = ""
    judge_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._judges: dict[str, VisualJudge] = {}
        self._measures: dict[str, Measure] = {}

    def judge_of(self, suite: Suite) -> VisualJudge:
        """The judge of a suite. Raises ValueError where it cannot be opened."""
        name = self.judge or suite.judge
        if name not in self._judges:
            own = dict(suite.judge_options) if not self.judge else {}
            self._judges[name] = open_judge(
                name, device=self.options.device, **{**own, **self.judge_options}
            )
        return self._judges[name]

    def prepare(self, suite: Suite) -> None:
        """Open everything that images of a suite need. Raises ValueError for what is missing."""
        if suite.judge:
            self.judge_of(suite)
        for measure in self.opened():
            measure.prepare(suite)

    def opened(self) -> list[Measure]:
        """All measures. Raises ValueError where weights or packages are missing."""
        for name in self.measures:
            if name not in self._measures:
                self._measures[name] = open_measure(name, self.options)
        return list(self._measures.values())


@dataclass(frozen=True)
class Chosen:
    """A suite by name, with the user's file of prompts where it reads one."""

    name: str
    prompts: Path | None = None


def measure_model(
    generator: TextToImage,
    num_steps: int,
    suites: Sequence[Chosen],
    root: Path,
    settings: BenchmarkSettings,
    instruments: Instruments,
    progress: Progress,
) -> list[Path]:
    """Draw and measure one model at one number of steps; continues what was interrupted.

    Suites that ask for the same prompts share one set of images, drawn for the first of them.

    Returns:
        Files of the measurements, and of the results of suites with a detector, on process 0.

    Raises:
        ValueError: for unknown names, missing weights, or a folder another process works on.
    """
    written: list[Path] = []
    drawn: dict[tuple[str, int], Path] = {}
    name = f"{generator.facts.label} {generator.facts.variant}".strip()
    title, allowed = f"{name}, {num_steps} steps", settings.allow_partial
    for chosen in suites:
        mine = replace(settings, prompts=chosen.prompts)
        suite = mine.open_suite(chosen.name)
        if mine.processes.rank == 0:  # say what is missing before hours of drawing
            instruments.prepare(suite)
        folder = result_folder(root, suite, generator, num_steps, settings.seed)
        key = (suite.prompts_sha256, suite.images_per_prompt)
        images = drawn.setdefault(key, folder)
        elsewhere = None if images == folder else images
        look = partial(_look_at, images, allow_partial=allowed, drawn_here=images.name)
        facts = (model_facts(generator.facts), sampling_facts(generator, num_steps, settings.seed))
        if suite.judge:
            folder.mkdir(parents=True, exist_ok=True)
            with folder_lock(folder, mine.processes.lock_name):
                if elsewhere is None:
                    draw_suite(generator, num_steps, suite, folder, mine, title, progress)
                if mine.processes.rank == 0:
                    found = look(suite, folder)
                    written += _measure(found, *facts, mine, instruments, title, progress, True)
        else:
            scored = score_model(
                generator, num_steps, chosen.name, root, mine, progress, drawn=elsewhere
            )
            if scored is not None:
                written.append(scored[0] / "result.json")
                found = look(suite, folder)
                with folder_lock(folder):
                    written += _measure(found, *facts, mine, instruments, title, progress, False)
        mine.processes.wait()
    return written


def measure_images(
    images: Path,
    suites: Sequence[Chosen],
    runs_dir: Path,
    settings: BenchmarkSettings,
    instruments: Instruments,
    progress: Progress,
) -> list[Path]:
    """Measure a folder in GenEval's layout made by anything; findings go below `runs_dir`/images.

    Returns, raises: as `measure_model`, and ValueError if the folder does not exist.
    """
    if not images.is_dir():
        raise ValueError(f"no folder of images at {images}")
    written: list[Path] = []
    for chosen in suites:
        mine = replace(settings, prompts=chosen.prompts)
        suite = mine.open_suite(chosen.name)
        if not suite.judge:
            scored = score_images(images, chosen.name, runs_dir, mine, progress)
            if scored is not None:
                written.append(scored[0] / "result.json")
        out = own_folder(images, suite, runs_dir)
        out.mkdir(parents=True, exist_ok=True)
        numbers = numbers_kept(images, chosen.name, suite, mine)
        found = _look_at(images, suite, out, settings.allow_partial, numbers)
        facts = facts_of_images(images, found.folder.images)
        sampling = SamplingFacts(steps=0, nfe=0, seed=settings.seed)
        with folder_lock(out):
            written += _measure(
                found, facts, sampling, mine, instruments, facts.label, progress, bool(suite.judge)
            )
    return written


def _look_at(
    images: Path,
    suite: Suite,
    out: Path,
    allow_partial: bool,
    numbers: Sequence[int] | None = None,
    drawn_here: str | None = None,
) -> DrawnImages:
    """The images of a suite.

    Args:
        numbers, drawn_here: `numbers` and `image_set` of `scan_folder`.

    Raises:
        ValueError: if the set is not complete and that is not allowed.
    """
    folder = scan_folder(
        images, suite.records, suite.images_per_prompt, numbers=numbers, image_set=drawn_here
    )
    if folder.problems and not allow_partial:
        shown = "; ".join(folder.problems[:5])
        raise ValueError(
            f"{images} is not the complete set ({shown}); complete it, or pass --allow-partial to "
            "measure it marked as partial"
        )
    return DrawnImages(suite, folder, out)


def _measure(
    drawn: DrawnImages,
    model: ModelFacts,
    sampling: SamplingFacts,
    settings: BenchmarkSettings,
    instruments: Instruments,
    title: str,
    progress: Progress,
    judged: bool,
) -> list[Path]:
    written: list[Path] = []
    if judged:
        found = _judge(drawn, settings, instruments, title, progress)
        written.append(_write(drawn, found, model, sampling, settings))
    for measure in instruments.opened():  # each is written down as it is found
        name = f"{title}: {measure.name}"
        finding = measure.measure(
            drawn,
            lambda done, total, name=name: progress(name, done, total),  # type: ignore[misc]
        )
        written.append(_write(drawn, finding, model, sampling, settings))
    return written


def _judge(
    drawn: DrawnImages,
    settings: BenchmarkSettings,
    instruments: Instruments,
    title: str,
    progress: Progress,
) -> Finding:
    suite = drawn.suite
    rules = suite.answers
    assert rules is not None
    judge = instruments.judge_of(suite)
    own = not instruments.judge or instruments.judge == suite.judge
    by = "" if own else "-by-" + re.sub(r"[^A-Za-z0-9.]+", "-", judge.identity)[:60]
    asked = (suite.drawn_as or suite.name).replace("@", "-")
    found = judge_folder(
        drawn.folder,
        suite,
        judge,
        drawn.out / MEASURES / f"answers-{asked}{by}.jsonl",
        progress=lambda done, total: progress(f"{title}: judging", done, total),
    )
    scores = rules.image_scores(suite.records, found.rows)
    values = tuple(
        (int(row["prompt_id"]), int(row["sample_id"]), score[rules.headline])
        for row, score in zip(found.rows, scores, strict=True)
        if rules.headline in score
    )
    return Finding(
        Instrument(
            name=suite.name + by,
            identity=judge.identity,
            settings={**dict(judge.settings), **dict(rules.settings)},
        ),
        ACCURACY,
        rules.headline,
        True,
        found.values,
        (*found.notes, *getattr(judge, "notes", ())),
        values,
    )


def _write(
    drawn: DrawnImages,
    finding: Finding,
    model: ModelFacts,
    sampling: SamplingFacts,
    settings: BenchmarkSettings,
) -> Path:
    """Write a measurement, unless an equal one exists: equal figures keep their date."""
    values: dict[str, Interval] = dict(finding.values)
    found = Measurement(
        images=image_set(drawn.suite),
        instrument=finding.instrument,
        aspect=finding.aspect,
        headline=finding.headline,
        higher_is_better=finding.higher_is_better,
        values=values,
        num_images=len(drawn.folder.images),
        num_failed=drawn.num_failed,
        partial=bool(drawn.folder.problems),
        notes=list(finding.notes),
        model=model,
        sampling=sampling,
        environment=provenance(),
        command=settings.command,
    )
    path = measurement_path(drawn.out, finding.instrument.name)
    incidental = {"environment", "command"}
    whole = with_images(found, finding.per_image)
    try:
        there = read_measurement(path)
        is_same = there.model_dump(exclude=incidental) == whole.model_dump(exclude=incidental)
        is_same = is_same and not images_problem(path, there)
    except ValueError:
        is_same = False
    return path if is_same else write_measurement(drawn.out, found, finding.per_image)
