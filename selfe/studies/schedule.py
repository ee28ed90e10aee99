"""A study as jobs: command lines with what they wait for, how much of the machine they take, and
whether their results are on disk already.

Nothing is remembered between two calls: what is done is read from checkpoints and results, so that
a study that was killed at any time continues with the same command.

Longer than other files: every kind of job stands here, and each says how it is drawn by the same
functions as its neighbour, or scores and measures would be of other images.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfe.config.resolve import differing_settings, resolve, same_weights
from selfe.config.schema import StepSampling
from selfe.planning.plan import Plan, make_plan
from selfe.run_folder.checkpoint import list_checkpoints
from selfe.run_folder.records import read_config
from selfe.studies.done import is_scored
from selfe.studies.study import Scoring, Study, Training, Trainings, trainings_of
from selfe.training.worker_count import usable_workers

BENCH = "selfe-bench"


@dataclass(frozen=True)
class Machine:
    """What a study may use.

    Attributes:
        kind: "cpu" or "gpu".
        units: cores, or GPUs.
        per_run: units of one training; None to decide by its size.
        gpu, mfu, price: of `selfe-bench plan`, for costs on a GPU.
    """

    kind: str
    units: int
    per_run: int | None = None
    gpu: str = "h200"
    mfu: float = 0.5
    price: float | None = None


@dataclass
class Job:
    """One command.

    Attributes:
        name: unique; shown before every line it prints.
        what: in words.
        words: the command without its launcher, "selfe-bench" first; several commands follow each
            other. A word with "*" stands for the one folder that matches it.
        units: cores or GPUs it takes; 0 for one that waits for all others.
        needs: names of jobs that must have succeeded.
        seed: jobs of later seeds wait until all of earlier ones have begun.
        done: whether its results are on disk.
        resumes_at: iteration of a training that was begun, else None.
        training: what it trains.
        seconds: estimated, on all its units; None where nothing is known.
    """

    name: str
    what: str
    words: tuple[str, ...]
    units: int = 1
    needs: tuple[str, ...] = ()
    seed: int = 0
    done: bool = False
    resumes_at: int | None = None
    training: Training | None = None
    plan: Plan | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Schedule:
    """All jobs in the order in which they begin."""

    study: Study
    machine: Machine
    jobs: Sequence[Job]
    trainings: Trainings = field(default_factory=lambda: Trainings(0))


def share_cores(trainings: Sequence[Training], cores: int) -> list[int]:
    """Cores for each of the trainings of one seed.

    Small networks gain more from processes beside each other than from threads, so as many run at
    once as there are cores. What does not come out even goes first and shares all cores. A run
    takes no more cores than it can use. The numbers depend on the machine and the rows alone,
    never on the seeds asked for: they decide how a run's losses are rounded.
    """
    count = len(trainings)
    together = cores if count > cores else min(2, cores)
    odd = count % together
    shares = []
    for place, training in enumerate(trainings):
        share = cores // odd if place < odd else cores // together
        shares.append(min(share, usable_workers(training.config, "cpu", threads=cores)))
    return shares


def make_schedule(
    study: Study,
    machine: Machine,
    *,
    found: Trainings | None = None,
    sampling_of_recipe: bool = False,
) -> Schedule:
    """The jobs of a study on a machine.

    Args:
        found: its trainings, where they have been resolved already.
        sampling_of_recipe: draw with the sampling settings that the recipe has today, also from
            runs that were trained before it had them.

    Raises:
        ValueError: as `trainings_of`, `make_plan` and for a run on disk that was trained with other
            settings.
    """
    found = found or trainings_of(study)
    jobs: list[Job] = []
    for seed in dict.fromkeys(study.seeds):
        trainings = [t for t in found.trainings if t.seed == seed]
        units = _units(study, machine, trainings)
        started = [
            _train_job(study, machine, training, count)
            for training, count in zip(trainings, units, strict=True)
        ]
        jobs += started
        for job, training in zip(started, trainings, strict=True):
            wanted = [s for s in study.scorings if s.takes(training.entry)]
            for number, scoring in enumerate(wanted, start=1):
                place = f" {number}" if len(wanted) > 1 else ""
                jobs.append(_score_job(study, job, scoring, place, found.whole, sampling_of_recipe))
    jobs += closing_jobs(study, found, jobs, sampling_of_recipe)
    return Schedule(study, machine, jobs, found)


def _units(study: Study, machine: Machine, trainings: Sequence[Training]) -> list[int]:
    asked = machine.per_run or (study.cores_per_run if machine.kind == "cpu" else None)
    if asked is not None:
        if not 1 <= asked <= machine.units:
            raise ValueError(
                f"a run cannot have {asked} of {machine.units} "
                f"{'cores' if machine.kind == 'cpu' else 'GPUs'}: ask for 1 to {machine.units}"
            )
        return [asked] * len(trainings)
    if machine.kind == "cpu":
        return share_cores(trainings, machine.units)
    # a network that fits many times into one GPU is trained beside others, a large one on all
    small = [t.config.data.source == "shapes" for t in trainings]
    return [1 if each else machine.units for each in small]


def _train_job(study: Study, machine: Machine, training: Training, units: int) -> Job:
    config, entry = training.config, training.entry
    plan = None
    settings = list(training.settings)
    words = [BENCH, "train", "--method", entry.method, "--recipe", study.recipe]
    words += ["--variant", entry.variant] if entry.variant else []
    words += ["--name", training.run_dir.name, "--runs-dir", str(training.run_dir.parent)]
    words += ["--seed", str(training.seed)] if training.seed else []
    words += ["--init-from", training.init_from] if training.init_from else []
    if machine.kind == "gpu":
        plan = make_plan(
            config,
            gpu=machine.gpu,
            gpus=units,
            mfu=machine.mfu,
            first_iteration=training.first_iteration,
            price=machine.price,
        )
        if units > 1:
            words += ["--shard", str(plan.shard)]
        if plan.micro_batch_per_gpu < plan.images_per_gpu:
            settings.append(f"train.micro_batch_size={plan.micro_batch_per_gpu}")
    words += ["--device", "cuda" if machine.kind == "gpu" else "cpu", "--auto-resume"]
    for text in settings:
        words += ["--set", text]
    at = _iteration_of(training, settings)
    source = Path(training.init_from.rpartition("@")[0])
    return Job(
        name=training.run_dir.name,
        what=_in_words(training),
        words=tuple(words),
        units=units,
        needs=(source.name,) if training.init_from else (),
        seed=training.seed,
        done=at is not None and at >= training.end,
        resumes_at=at if at else None,
        training=training,
        plan=plan,
    )


def _in_words(training: Training) -> str:
    source = f", from {training.init_from}" if training.init_from else ""
    return f"train {_row_of(training)} to iteration {training.end:,}{source}"


def _row_of(training: Training) -> str:
    entry = training.entry
    seed = f"seed {training.seed}" if training.seed else ""
    parts = [entry.name or entry.label, *(() if entry.name else entry.settings), seed]
    return " ".join(part for part in parts if part)


def _iteration_of(training: Training, settings: Sequence[str]) -> int | None:
    """Iteration of the newest checkpoint; 0 for a run without any, None where there is no run.

    Raises:
        ValueError: if the folder holds another run.
    """
    if not (training.run_dir / "config.json").is_file():
        return None
    entry = training.entry
    config = resolve(
        training.config.recipe,
        entry.method,
        variant=entry.variant,
        seed=training.seed,
        assignments=settings,
    )
    found = list_checkpoints(training.run_dir / "checkpoints")
    if not found:  # it may be begun anew
        return 0
    at = found[-1].step
    then = read_config(training.run_dir)
    if then.digest != config.digest and (at < training.end or not same_weights(then, config)):
        name, before, now = differing_settings(then, config)[0]
        raise ValueError(
            f"{training.run_dir} was trained with other settings than this study asks for ({name} "
            f"was {before}, not {now}): move it away, or give the study another --runs-dir"
        )
    return at


def _score_job(
    study: Study, job: Job, scoring: Scoring, place: str, whole: int, sampling_of_recipe: bool
) -> Job:
    training = job.training
    assert training is not None
    checkpoints = training.checkpoints(scoring.at, whole)
    settings = _drawn_with(study, training, scoring, sampling_of_recipe)
    run = str(training.run_dir)
    words = [BENCH, "geneval"]
    for step in checkpoints:
        words += ["--model", run if step == training.end else f"{run}@{step}"]
    words += ["--steps", ",".join(map(str, scoring.steps))]
    words += ["--suite", study.suite] if study.suite else []
    words += ["--split", study.split] if study.split else []
    words += ["--limit", str(study.limit)] if study.limit is not None else []
    words += ["--runs-dir", str(training.run_dir.parent)]
    words += ["--inference", scoring.inference] if scoring.inference else []
    words += [word for text in settings for word in ("--set", text)]
    device = job.words[job.words.index("--device") + 1]
    steps = ",".join(map(str, scoring.steps))
    where = ", ".join(f"{step:,}" for step in checkpoints)
    if len(checkpoints) > 3:
        where = f"{checkpoints[0]:,}, {checkpoints[1]:,} ... {checkpoints[-1]:,}"
    how = "".join(f", {text}" for text in scoring.settings)
    how += f", inference {scoring.inference}" if scoring.inference else ""
    return Job(
        name=f"{job.name} scores{place}",
        what=f"score {_row_of(training)} at iteration {where} in {steps} steps{how}",
        words=(*words, "--device", device),
        units=job.units,
        needs=(job.name,),
        seed=job.seed,
        done=job.done
        and is_scored(
            study, training.run_dir, checkpoints, scoring.steps, settings, scoring.inference
        ),
        training=training,
    )


def _drawn_with(
    study: Study, training: Training, scoring: Scoring, sampling_of_recipe: bool
) -> list[str]:
    """Sampling settings of a scoring: also the study's own, which a run that was trained before
    does not have in its configuration."""
    settings = list(scoring.settings)
    if scoring.inference:
        return settings
    if sampling_of_recipe:
        return [_sampling_of_recipe(training, scoring.steps), *settings]
    given = [*study.settings, *training.entry.settings]
    return [*(text for text in given if text.strip().startswith("sampling.")), *settings]


def _sampling_of_recipe(training: Training, steps: Sequence[int]) -> str:
    sampling = training.config.sampling
    keys = set(StepSampling.model_fields)
    by_steps = {n: sampling.at(n).model_dump(include=keys) for n in steps}
    return "sampling.by_steps=" + json.dumps(by_steps)


def _measure_jobs(
    study: Study, found: Trainings, earlier: Sequence[Job], sampling_of_recipe: bool
) -> list[Job]:
    """Measures of the images that the first scoring draws; they find them drawn.

    One job for all trainings that are drawn alike: settings are of a whole command.
    """
    alike: dict[tuple[str, ...], list[Training]] = {}
    for training in found.trainings:
        drawn = _drawn_with(study, training, study.scorings[0], sampling_of_recipe)
        alike.setdefault(tuple(drawn), []).append(training)
    return [
        _measure_job(study, trainings, settings, earlier, f" {n}" if len(alike) > 1 else "")
        for n, (settings, trainings) in enumerate(alike.items(), start=1)
    ]


def _measure_job(
    study: Study,
    trainings: Sequence[Training],
    settings: Sequence[str],
    earlier: Sequence[Job],
    place: str,
) -> Job:
    scoring = study.scorings[0]
    words = [BENCH, "measure"]
    for training in trainings:
        words += ["--model", str(training.run_dir)]
    words += ["--steps", ",".join(map(str, scoring.steps))]
    words += [word for name in study.measures for word in ("--with", name)]
    words += ["--suite", study.suite] if study.suite else []
    words += ["--split", study.split] if study.split else []
    words += ["--limit", str(study.limit)] if study.limit is not None else []
    words += [word for text in settings for word in ("--set", text)]
    drawn_on = earlier[0].words[earlier[0].words.index("--device") + 1]
    words += ["--runs-dir", str(study.runs_dir), "--device", drawn_on]
    what = f"{', '.join(study.measures)} of the images drawn"
    needs = tuple(job.name for job in earlier)
    return Job(f"measures{place}", what, tuple(words), units=0, needs=needs)


def closing_jobs(
    study: Study, found: Trainings, earlier: Sequence[Job], sampling_of_recipe: bool = False
) -> list[Job]:
    """Measures where a study has any, the report, and where there are two forks of one run, their
    comparison; nothing for a study that scores nothing by itself."""
    if not study.scorings:
        return []
    jobs = _measure_jobs(study, found, earlier, sampling_of_recipe) if study.measures else []
    needs = [job.name for job in (*earlier, *jobs)]
    words = [BENCH, "report", "--runs-dir", str(study.runs_dir), "--out", str(study.out)]
    jobs.append(Job("report", "tables and figures", tuple(words), units=0, needs=tuple(needs)))
    forks = [t for t in found.trainings if t.init_from]
    inference = study.scorings[0].inference  # stands before the size in names of protocols
    own = f"*-{inference}-[0-9]*" if inference else "*"
    for first, second in zip(forks[::2], forks[1::2], strict=False):
        for steps in study.scorings[0].steps:
            places = [f"{t.run_dir}/results/step-{t.end:08d}" for t in (first, second)]
            folders = [f"{place}/{own}/steps-{steps:03d}-*" for place in places]
            name = f"{first.run_dir.name} against {second.run_dir.name}"
            jobs.append(
                Job(
                    f"compare {name}, {steps} steps",
                    "paired over prompts",
                    (BENCH, "compare", *folders),
                    units=0,
                    needs=tuple(needs),
                )
            )
    return jobs


def shell_line(job: Job, machine: Machine) -> str:
    """The command as it can be typed; the shell completes what ends in "*"."""
    text = " ".join(w if "*" in w else shlex.quote(w) for w in job.words)
    if machine.kind == "cpu":
        return f"OMP_NUM_THREADS={job.units} {text}" if job.units else text
    if job.units > 1:
        return f"torchrun --standalone --nproc-per-node={job.units} --no-python {text}"
    return text
