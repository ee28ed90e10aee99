"""How long the jobs of a study take on their cores or GPUs.

On a GPU the figures are those of `selfe-bench plan`. On processors they follow from the same FLOPs
and `FLOPS_PER_CORE`: a guess within a factor of two, which the pool corrects by what its first jobs
took.
"""

from __future__ import annotations

from functools import cache

from evals.registry import open_suite, suite_for
from selfe.config.schema import RunConfig
from selfe.device import cpu_multiplies_bf16
from selfe.planning.around import EVALUATED_STEPS
from selfe.planning.memory import world_side
from selfe.planning.plan import make_plan
from selfe.planning.stages import forward_flops
from selfe.studies.schedule import Job, Schedule
from selfe.studies.study import Study

FLOPS_PER_CORE = {"bf16": 130e9, "fp32": 80e9}
"""Reached by one thread in the shapes recipes, FLOP/s: 800 iterations of Flow Matching in 4 minutes
(bf16) and of IMM in 9 (fp32) on one core of the processors in reports/speed."""

SECONDS_PER_IMAGE = 0.02
"""Detecting and judging one image of the shapes world, and writing it down."""
SECONDS_PER_COMMAND = 30
"""Opening the model and, once a command, the reference of diversity."""
SHAPES_TEXT_TOKENS = 24


def estimate(schedule: Schedule) -> None:
    """Write `seconds` into the jobs that are left to do."""
    cpu = schedule.machine.kind == "cpu"
    for job in schedule.jobs:
        if job.done or job.training is None:
            continue
        config = job.training.config
        trains = job.words[1] == "train"
        if trains:
            plan = job.plan or make_plan(
                config, gpus=1, first_iteration=job.training.first_iteration
            )
            first = job.training.first_iteration
            left = 1 - max(0, (job.resumes_at or first) - first) / (job.training.end - first)
            if cpu:
                job.seconds = plan.flops_total * left / (_rate(config) * job.units)
            else:
                job.seconds = plan.days * 86_400 * left
            job.plan = plan
        elif cpu and config.data.source == "shapes":
            job.seconds = _scoring_seconds(schedule.study, job)
        elif not cpu and job.words[1] == "geneval":
            job.seconds = 3600 * _drawing_gpu_hours(schedule, job) / job.units


def _drawing_gpu_hours(schedule: Schedule, job: Job) -> float:
    """GenEval's images of every checkpoint that a job scores; its detector is not counted."""
    training, machine = job.training, schedule.machine
    assert training is not None
    sampling = training.config.sampling
    plan = make_plan(training.config, gpu=machine.gpu, gpus=1, mfu=machine.mfu)
    steps = _steps_of(job)
    whole, asked = (
        sum(n * sampling.at(n).calls for n in each) for each in (EVALUATED_STEPS, steps)
    )
    return plan.geneval_gpu_hours * job.words.count("--model") * asked / whole


def _steps_of(job: Job) -> list[int]:
    return [int(n) for n in job.words[job.words.index("--steps") + 1].split(",")]


def _rate(config: RunConfig) -> float:
    precision = config.train.precision
    bf16 = precision == "bf16" or (precision == "auto" and cpu_multiplies_bf16())
    return FLOPS_PER_CORE["bf16" if bf16 else "fp32"]


@cache
def _images(suite: str, split: str, limit: int | None) -> int:
    """Images of one model at one number of steps."""
    from evals.suites.limit import limited

    chosen = limited(open_suite(suite, split), limit)
    return len(chosen.records) * chosen.images_per_prompt


def _scoring_seconds(study: Study, job: Job) -> float:
    training = job.training
    assert training is not None
    config = training.config
    name = study.suite or suite_for(config.data.preset)
    images = _images(name, study.split, study.limit)
    models = job.words.count("--model")
    steps = _steps_of(job)
    passes = sum(n * config.sampling.at(n).calls for n in steps)
    side = world_side(config.data.preset)
    forward = forward_flops(config, side, SHAPES_TEXT_TOKENS)
    drawing = passes * images * forward / (FLOPS_PER_CORE["fp32"] * job.units)
    judging = images * len(steps) * SECONDS_PER_IMAGE / job.units
    return models * (drawing + judging) + SECONDS_PER_COMMAND
