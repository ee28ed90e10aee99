"""Finding result folders, checking them, and sorting them into groups that may share a table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from evals.base import Interval, Result
from evals.results import (
    RESULT,
    check_files,
    protocol_key,
    protocol_slug,
    read_result,
    walk_results,
)
from evals.stats import Difference, overall_interval, task_interval
from evals.suites.shapes import ROUND_TRIP_SCORE
from evals.verdicts import (
    Counts,
    counts_by_task,
    difference_of_counts,
    read_verdicts,
    verdict_frame,
)
from selfe.foreign_text import from_outside, one_line

if TYPE_CHECKING:  # `verdict_frame` loads it with the first result
    import pandas as pd

MANY_STEPS = 50
PLATEAU = 0.9
_SCORE_TOLERANCE = 1e-6
_IMAGE = ["prompt_id", "sample_id", "tag"]


class TrainingData(NamedTuple):
    """The latent cache that a model was trained on.

    Attributes:
        cache: sha256 of its index; "" for data that follow from the settings.
        path: where it lay.
    """

    cache: str
    path: str


@dataclass(frozen=True)
class ResultFolder:
    """One result and the verdicts it was computed from.

    Attributes:
        path: the folder.
        name: the folder as reports print it: the root as given, then the way down.
        result: result.json.
        verdicts: images.jsonl, a frame of `evals.verdicts.verdict_frame`.
        counts: correct images by prompt, per task.
        under_trained: why the model counts as under-trained; "" where it does not.
        told_apart: whether the model's variant tells the changed settings too (`tell_apart`).
        own_name: what the user calls a configuration that was told apart by the name of its runs;
            "" where there is no such name.
    """

    path: Path
    name: str
    result: Result
    verdicts: pd.DataFrame
    counts: Counts
    under_trained: str = ""
    told_apart: bool = False
    own_name: str = ""

    @property
    def run(self) -> str:
        """Name of the training run, or of the published model."""
        return run_of(self.result)

    @property
    def recipe(self) -> str:
        return str(self.result.model.training.get("recipe", ""))

    @property
    def data(self) -> TrainingData:
        facts = self.result.model.training.get("data") or {}
        return TrainingData(str(facts.get("cache", "")), str(facts.get("path", "")))

    @property
    def changed(self) -> tuple[str, ...] | None:
        """Settings other than the recipe's, as `--set` takes them; None where none are recorded."""
        facts = self.result.model.training
        if facts.get("follows_recipe"):  # as results of earlier versions say it
            return ()
        changed = facts.get("changed")
        return None if changed is None else tuple(changed)

    def minus(self, other: ResultFolder) -> Difference:
        """This overall score minus another one's, paired over prompts.

        Raises:
            ValueError: if the two do not hold the same prompts and samples.
        """
        if not self.verdicts[_IMAGE].equals(other.verdicts[_IMAGE]):
            raise ValueError(
                "differences are paired over prompts: both results need the same images"
            )
        return difference_of_counts(self.counts, other.counts)


def run_of(result: Result) -> str:
    """Name of the training run, or of the published model."""
    return result.model.name.partition("@")[0]


def collect(roots: Sequence[Path]) -> list[ResultFolder]:
    """Every result folder below the roots, in an order that depends on their content only.

    Raises:
        ValueError: if a root does not exist, or a folder is damaged or contradicts itself.
    """
    found = [read_result_folder(folder, folder.as_posix()) for folder in find_results(roots)]
    return sorted(_labelled(found), key=_order)


def find_results(roots: Sequence[Path]) -> list[Path]:
    """Every folder below the roots that holds a result, each once.

    Raises:
        ValueError: if a root does not exist.
    """
    found: dict[Path, Path] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder: name the folder that holds results")
        for folder in sorted(place for place, files in walk_results(root) if RESULT in files):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _labelled(folders: list[ResultFolder]) -> list[ResultFolder]:
    """Mark every result of a model trained here that many steps do not bring near what its codec
    allows, not even under the best of the settings tried."""
    best: dict[tuple[str, str], ResultFolder] = {}
    for folder in folders:
        if folder.result.scores.overall and folder.result.sampling.steps >= MANY_STEPS:
            key = _trained_model(folder)
            best[key] = max(best.get(key, folder), folder, key=_overall_mean)
    reasons = {key: _shortfall(folder) for key, folder in best.items()}
    return [
        replace(folder, under_trained=reasons.get(_trained_model(folder)) or folder.under_trained)
        for folder in folders
    ]


def _trained_model(folder: ResultFolder) -> tuple[str, str]:
    return folder.result.model.digest, protocol_key(folder.result.protocol)


def _overall_mean(folder: ResultFolder) -> float:
    overall = folder.result.scores.overall
    assert overall is not None
    return overall.mean


def _shortfall(folder: ResultFolder) -> str:
    """Why a result at many steps shows an under-trained model; "" where it does not."""
    ceiling = ROUND_TRIP_SCORE.get(folder.result.protocol.suite)
    if ceiling is None or folder.result.model.iterations is None:
        return ""  # no ceiling known, or another codec's
    if _overall_mean(folder) >= PLATEAU * ceiling:
        return ""
    return (
        f"{_overall_mean(folder):.3f} at {folder.result.sampling.steps} steps, below {PLATEAU} of "
        f"the {ceiling:.3f} of renders after a round trip through the autoencoder"
    )


def _order(folder: ResultFolder) -> tuple[Any, ...]:
    result = folder.result
    settings = json.dumps(result.sampling.settings, sort_keys=True)
    model, sampling = result.model, result.sampling
    identity = (model.method, model.variant, model.iterations or 0, model.name, model.digest)
    protocol = (protocol_slug(result.protocol), folder.recipe)
    return (*protocol, *identity, sampling.steps, settings, folder.name)


def read_result_folder(folder: Path, name: str = "") -> ResultFolder:
    """Read one folder and check that its scores follow from its verdicts.

    Raises:
        ValueError: naming the file, for anything that is not so.
    """
    path = folder / RESULT
    stored = read_result(path)
    check_files(folder, stored)
    result = Result.model_validate(from_outside(stored.model_dump(mode="json")))
    rows = read_verdicts(folder)
    verdicts, counts = verdict_frame(rows), counts_by_task(rows)
    _check(path, result, verdicts, counts)
    stated = str(result.model.training.get("under_trained") or "")
    shown = one_line(name or folder.as_posix())
    return ResultFolder(folder, shown, result, verdicts, counts, stated)


def _check(path: Path, result: Result, verdicts: pd.DataFrame, counts: Counts) -> None:
    again = "score the folder again"
    if len(verdicts) != result.scores.num_images:
        raise ValueError(
            f"{path} counts {result.scores.num_images} images but images.jsonl has "
            f"{len(verdicts)}: {again}"
        )
    protocol = result.protocol
    expected = protocol.num_prompts * protocol.images_per_prompt
    if len(verdicts) != expected and not result.scores.partial:
        raise ValueError(
            f"{path} has {len(verdicts)} of {expected} images and does not say that it is partial: "
            f"{again}"
        )
    means = {task: of_task.share for task, of_task in counts.items()}
    stored = result.scores.tasks
    differing = [
        task
        for task in sorted(set(means) | set(stored))
        if task not in means
        or task not in stored
        or abs(means[task] - stored[task].mean) > _SCORE_TOLERANCE
    ]
    overall = result.scores.overall
    if overall and means:
        mean = sum(means.values()) / len(means)
        if abs(mean - overall.mean) > _SCORE_TOLERANCE:
            differing.append("overall")
    if differing:
        raise ValueError(
            f"{path}: {', '.join(differing)} does not follow from images.jsonl: {again}"
        )
    _check_intervals(path, result, counts)


def _check_intervals(path: Path, result: Result, counts: Counts) -> None:
    """Intervals of two versions of the statistics must not share a table."""
    scores = result.scores
    pairs = [(task, task_interval(counts[task]), scores.tasks[task]) for task in counts]
    if scores.overall and counts:
        pairs.append(("overall", overall_interval(counts), scores.overall))
    old = [name for name, now, then in pairs if not _same(now, then)]
    if old:
        raise ValueError(
            f"{path}: the interval of {', '.join(old)} is of another version of the statistics: "
            "run its `geneval` command again, which scores the images that are there"
        )


def _same(a: Interval, b: Interval) -> bool:
    return abs(a.low - b.low) <= _SCORE_TOLERANCE and abs(a.high - b.high) <= _SCORE_TOLERANCE
