"""A schedule in words and as JSON: what will run, what is done, and what it costs."""

from __future__ import annotations

from typing import Any

from selfe.studies.pool import simulate
from selfe.studies.schedule import Job, Schedule, shell_line


def as_record(schedule: Schedule) -> dict[str, Any]:
    """The schedule for `--json`; seconds are None where nothing is known."""
    machine, study = schedule.machine, schedule.study
    return {
        "study": study.name,
        "recipe": study.recipe,
        "seeds": list(study.seeds),
        "runs_dir": str(study.runs_dir),
        "report": str(study.out),
        "machine": {"kind": machine.kind, "units": machine.units, "gpu": _gpu(schedule)},
        "seconds": seconds_of(schedule),
        "gpu_days": gpu_days_of(schedule),
        "scoring_gpu_days": scoring_gpu_days_of(schedule),
        "cost": cost_of(schedule),
        "checkpoint_bytes": checkpoint_bytes_of(schedule),
        "cache_bytes": cache_bytes_of(schedule),
        "jobs": [
            {
                "name": job.name,
                "what": job.what,
                "command": shell_line(job, machine),
                "units": job.units,
                "needs": list(job.needs),
                "state": state_of(job),
                "seconds": job.seconds,
                "gpu_days": job.plan.gpu_days if job.plan and machine.kind == "gpu" else None,
                "relative_to_fm": job.plan.relative_to_fm if job.plan else None,
            }
            for job in schedule.jobs
        ],
    }


def _gpu(schedule: Schedule) -> str | None:
    return schedule.machine.gpu if schedule.machine.kind == "gpu" else None


def seconds_of(schedule: Schedule) -> float | None:
    """From now to the end; None where no job's time is known."""
    if not any(job.seconds for job in schedule.jobs):
        return None
    return simulate(schedule.jobs, schedule.machine.units)


def gpu_days_of(schedule: Schedule) -> float | None:
    """Of the trainings that are left to do; scoring is not counted."""
    if schedule.machine.kind != "gpu":
        return None
    return sum((job.seconds or 0.0) * job.units for job in schedule.jobs if job.plan) / 86_400


def scoring_gpu_days_of(schedule: Schedule) -> float | None:
    """Of drawing the images of all scorings that are left to do; detectors are not counted."""
    if schedule.machine.kind != "gpu":
        return None
    scorings = [job for job in schedule.jobs if job.words[1] == "geneval"]
    return sum((job.seconds or 0.0) * job.units for job in scorings) / 86_400


def cost_of(schedule: Schedule) -> float | None:
    """Of training and drawing, in the currency of the price; None where no price was given."""
    days, drawing = gpu_days_of(schedule), scoring_gpu_days_of(schedule)
    price = schedule.machine.price
    return None if price is None or days is None else 24 * (days + (drawing or 0)) * price


def checkpoint_bytes_of(schedule: Schedule) -> int:
    return sum(job.plan.run_bytes for job in schedule.jobs if job.plan and not job.done)


def cache_bytes_of(schedule: Schedule) -> int:
    """Of the latent cache that all trainings read; 0 where data are drawn."""
    return max(
        (
            job.plan.cache_bytes
            for job in schedule.jobs
            if job.plan and job.training and job.training.config.data.source == "latents"
        ),
        default=0,
    )


def state_of(job: Job) -> str:
    if job.done:
        return "done"
    return f"resumes at {job.resumes_at:,}" if job.resumes_at else "to do"


def as_text(schedule: Schedule) -> str:
    """The plan as a table: a line a job, then what all of it takes."""
    study, machine = schedule.study, schedule.machine
    trainings = [job for job in schedule.jobs if job.training and job.words[1] == "train"]
    unit = "cores" if machine.kind == "cpu" else f"{machine.gpu.upper()} GPUs"
    lines = [
        f"study {study.name}: {len(trainings)} trainings of recipe {study.recipe}, "
        f"{machine.units} {unit}"
    ]
    if study.settings:
        lines.append(f"all with {' '.join(study.settings)}")
    costs = [_state_and_cost(job, schedule) for job in schedule.jobs]
    width = max(map(len, costs))
    for job, cost in zip(schedule.jobs, costs, strict=True):
        lines.append(f"  {cost:<{width}}  {job.what}")
    left = sum(not job.done for job in schedule.jobs if job.training)
    seconds = seconds_of(schedule)
    words = [f"{left} of {sum(job.training is not None for job in schedule.jobs)} jobs to do"]
    if (days := gpu_days_of(schedule)) is not None:
        words.append(f"{days:,.2f} GPU-days of training at an MFU of {machine.mfu:g}")
        drawing = scoring_gpu_days_of(schedule) or 0
        words.append(f"{drawing:,.2f} of drawing what is scored, detectors not counted")
    if (money := cost_of(schedule)) is not None:
        words.append(f"{money:,.0f} at {machine.price:g} a GPU-hour")
    if seconds:
        words.append(f"about {duration(seconds)}")
    if size := checkpoint_bytes_of(schedule):
        words.append(f"{size / 1e9:,.1f} GB of checkpoints")
    if size := cache_bytes_of(schedule):
        words.append(f"{size / 1e9:,.0f} GB of latent cache")
    return "\n".join([*lines, "; ".join(words), f"runs in {study.runs_dir}, report {study.out}"])


def _state_and_cost(job: Job, schedule: Schedule) -> str:
    if job.done or job.seconds is None:
        return state_of(job)
    units = job.units
    unit = ("core" if schedule.machine.kind == "cpu" else "GPU") + "s" * (units > 1)
    state = f"{state_of(job)}, " if job.resumes_at else ""
    return f"{state}{duration(job.seconds)} on {units} {unit}"


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 36 * 3600 else f"{seconds / 86_400:,.1f} days"


def as_script(schedule: Schedule) -> str:
    """The jobs that are not done as a shell script, one command after the other."""
    lines = ["set -e"]
    for job in schedule.jobs:
        if not job.done:
            lines += ["", f"# {job.name}: {job.what}", shell_line(job, schedule.machine)]
    return "\n".join(lines)
