"""Two configurations compared over the training seeds they share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evals.base import Frozen, Interval
from evals.multiplicity import holm, verdict
from evals.report.compare import check_same_protocol, name_of
from evals.report.result_folders import ResultFolder
from evals.report.rows import configuration_of
from evals.report.training_seeds import mean_over, only_task, tested_over
from evals.results import protocol_key
from evals.verdicts import Counts


class ComparedMeans(Frozen):
    """One task, or the overall score.

    Attributes:
        a, b: means over trainings.
        difference: a - b; all intervals hold for other training seeds and other prompts
            (`evals.over_trainings.over_trainings`).
        resolved: whether the interval of the difference leaves out 0.
        p_value: two-sided, of a difference of 0 (`evals.over_trainings.p_over_trainings`).
    """

    a: Interval
    b: Interval
    difference: Interval
    resolved: bool
    p_value: float


class TrainingsComparison(Frozen):
    """A minus B over training seeds."""

    a: str
    b: str
    suite: str
    seeds: tuple[int, ...]
    overall: ComparedMeans
    tasks: dict[str, ComparedMeans]


def compare_trainings(a: Path, b: Path, folders: Sequence[ResultFolder]) -> TrainingsComparison:
    """Compare the configurations of two results over the training seeds that both have.

    Args:
        a, b: folders of results, whichever their seeds.
        folders: where to look for the other seeds (`evals.report.result_folders.collect`).

    Raises:
        ValueError: if a or b is not among `folders`, was not trained here or is of a fork; if their
            protocols differ, or fewer than two seeds are shared.
    """
    ours, its = (_of(path, folders) for path in (a, b))
    check_same_protocol(ours.result, its.result)
    trainings_a, trainings_b = (_by_seed(folder, folders) for folder in (ours, its))
    seeds = sorted(trainings_a.keys() & trainings_b.keys())
    if len(seeds) < 2:
        raise ValueError(
            f"a comparison over trainings needs two shared seeds; {a} has results of seeds "
            f"{_words(trainings_a)}, {b} of {_words(trainings_b)}"
        )

    def compared(part: Callable[[Counts], Counts]) -> ComparedMeans:
        x, y = ([part(all_[seed].counts) for seed in seeds] for all_ in (trainings_a, trainings_b))
        found = tested_over(list(zip(x, y, strict=True)))
        return ComparedMeans(
            a=mean_over(x),
            b=mean_over(y),
            difference=found.interval,
            resolved=found.resolved,
            p_value=found.p_value,
        )

    return TrainingsComparison(
        a=name_of(ours.result),
        b=name_of(its.result),
        suite=ours.result.protocol.suite,
        seeds=tuple(seeds),
        overall=compared(lambda counts: counts),
        tasks={task: compared(partial(only_task, task)) for task in ours.counts},
    )


def _of(path: Path, folders: Sequence[ResultFolder]) -> ResultFolder:
    found = next((f for f in folders if f.path.resolve() == path.resolve()), None)
    if found is None:
        raise ValueError(f"{path} is not among the results of the folder given")
    if configuration_of(found) is None:
        raise ValueError(f"{path} is not of a training from its start, with its settings recorded")
    if found.result.scores.partial:
        raise ValueError(f"{path} is a partial result: score it completely")
    return found


def _by_seed(own: ResultFolder, folders: Sequence[ResultFolder]) -> dict[int, ResultFolder]:
    alike = [f for f in folders if not f.result.scores.partial and _key(f) == _key(own)]
    by_seed = {f.result.model.training.get("seed", 0): f for f in reversed(alike)}
    # of two results of its seed, the one that was named
    return by_seed | {own.result.model.training.get("seed", 0): own}


def _key(folder: ResultFolder) -> tuple[Any, ...]:
    """What results share that differ in the training seed alone."""
    model, sampling = folder.result.model, folder.result.sampling
    return (
        protocol_key(folder.result.protocol),
        *(model.method, model.variant, model.iterations, configuration_of(folder)),
        *(sampling.steps, json.dumps(sampling.settings, sort_keys=True)),
    )


def _words(by_seed: dict[int, ResultFolder]) -> str:
    return ", ".join(map(str, sorted(by_seed)))


def as_markdown(comparison: TrainingsComparison) -> str:
    c = comparison
    lines = [
        f"A = {c.a}; B = {c.b} ({c.suite}), over training seeds {', '.join(map(str, c.seeds))}",
        "",
        "| task | A | B | A - B | 95% interval | verdict |",
        "|---|---|---|---|---|---|",
    ]
    adjusted = holm([score.p_value for score in c.tasks.values()])
    rows = zip([*c.tasks.items(), ("overall", c.overall)], [*adjusted, None], strict=True)
    for (name, score), p in rows:
        d = score.difference
        lines.append(
            f"| {name} | {score.a.mean:.3f} | {score.b.mean:.3f} | {d.mean:+.3f} | {d.low:+.3f} to "
            f"{d.high:+.3f} | {verdict(score.resolved, p)} |"
        )
    lines += [
        "",
        "Intervals hold for other training seeds and other prompts; verdicts of tasks are adjusted "
        "together (Holm).",
    ]
    return "\n".join(lines) + "\n"
