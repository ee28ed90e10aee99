"""Finding result folders, checking them, and sorting them into groups that may share a table."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import pandas as pd
from pydantic import ValidationError

from evals.base import TASKS, ImageVerdict, Interval, ProtocolFacts, Result
from evals.pairing import Counts, counts_by_task
from evals.stats import PromptCounts, overall_interval, task_interval
from evals.suites.shapes import ROUND_TRIP_SCORE
from selfe.files import read_json_lines

MANY_STEPS = 50
PLATEAU = 0.9
_SCORE_TOLERANCE = 1e-6


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
        verdicts: images.jsonl, sorted; columns prompt_id, sample_id, tag, correct.
        under_trained: why the model counts as under-trained; "" where it does not.
        told_apart: whether the model's variant names the changed settings too (`tell_apart`).
    """

    path: Path
    name: str
    result: Result
    verdicts: pd.DataFrame
    under_trained: str = ""
    told_apart: bool = False

    @cached_property
    def counts(self) -> Counts:
        """Correct images by prompt, per task."""
        return counts_by_task(self.verdicts)

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


def protocol_key(protocol: ProtocolFacts) -> str:
    """Identity of a protocol: results with different keys never share a table."""
    values = protocol.model_dump(mode="json")
    if values["signal"] == 1:
        del values["signal"]  # younger than the names of published tables
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_slug(protocol: ProtocolFacts) -> str:
    """A short name of a protocol for file names."""
    suite = protocol.suite.replace("@", "-")
    size = f"{protocol.num_prompts}x{protocol.images_per_prompt}"
    parts = [suite, protocol.split, size, protocol_key(protocol)[:6]]
    return "-".join(part for part in parts if part)


def collect(roots: Sequence[Path]) -> list[ResultFolder]:
    """Every result folder below the roots, in an order that depends on their content only.

    Raises:
        ValueError: if a root does not exist, or a folder is damaged or contradicts itself.
    """
    found: dict[Path, ResultFolder] = {}
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder: name the folder that holds results")
        for path in sorted(root.rglob("result.json")):
            folder = path.parent
            if folder.resolve() not in found:
                found[folder.resolve()] = read_result_folder(folder, folder.as_posix())
    return sorted(_labelled(list(found.values())), key=_order)


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


def tell_apart(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """The results, trainings of one method with different data or settings as its variants.

    Of the latent caches that methods were trained on under one recipe, the one with most results
    keeps the names. Of the settings that a method and variant were trained with, the recipe's own
    do; where none are, those that all others have too, or else those with most results.
    """
    found: dict[tuple[str, ...], Counter[tuple[str, ...]]] = {}
    for folder in folders:
        if folder.changed is not None:
            found.setdefault(_trained_as(folder), Counter())[folder.changed] += 1
    usual = {key: min(n, key=partial(_rank_of_settings, n)) for key, n in found.items()}
    data = _names_of_data(folders)
    every = []
    for folder in folders:
        its_data, settings = data.get((folder.recipe, folder.data.cache), ""), folder.changed or ()
        if folder.changed is None or settings == usual[_trained_as(folder)]:
            settings = ()
        if its_data or settings:
            model = folder.result.model
            variant = ", ".join(part for part in (model.variant, its_data, *settings) if part)
            model = model.model_copy(update={"variant": variant})
            result = folder.result.model_copy(update={"model": model})
            folder = replace(folder, result=result, told_apart=bool(settings))
        every.append(folder)
    return every


def usual_data(folders: Sequence[ResultFolder]) -> TrainingData:
    """The data that most of the results were trained on, where it lay first."""
    counts = Counter(folder.data.cache for folder in folders)
    most = max(counts.values(), default=0)
    usual = (folder.data for folder in folders if counts[folder.data.cache] == most)
    return min(usual, default=TrainingData("", ""))


def _names_of_data(folders: Iterable[ResultFolder]) -> dict[tuple[str, str], str]:
    """(recipe, cache) -> what tells it from the usual one of the recipe."""
    by_recipe: dict[str, list[ResultFolder]] = {}
    for folder in folders:
        if folder.changed is not None:
            by_recipe.setdefault(folder.recipe, []).append(folder)
    names = {}
    for recipe, members in by_recipe.items():
        usual = usual_data(members).cache
        places = {cache: PurePath(path).name for cache, path in sorted({f.data for f in members})}
        for cache, place in places.items():
            shared = list(places.values()).count(place) > 1
            name = f"{place} {cache[:8]}" if shared else place
            if cache != usual:
                names[recipe, cache] = f"data {name}" if cache else "no cache recorded"
    return names


def _rank_of_settings(
    found: Mapping[tuple[str, ...], int], changed: tuple[str, ...]
) -> tuple[Any, ...]:
    base = all(set(changed) <= set(other) for other in found)
    return not base, -found[changed], changed


def _trained_as(folder: ResultFolder) -> tuple[str, ...]:
    model = folder.result.model
    return folder.recipe, model.method, model.variant, folder.data.cache


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
    path = folder / "result.json"
    try:
        result = Result.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path} is no result: {where}: {first['msg']}; score it again") from None
    verdicts = read_verdicts(folder / "images.jsonl")
    _check(path, result, verdicts)
    stated = str(result.model.training.get("under_trained") or "")
    return ResultFolder(folder, name or folder.as_posix(), result, verdicts, stated)


def read_verdicts(path: Path) -> pd.DataFrame:
    """images.jsonl as a frame, sorted; a torn last line (a write cut short) is dropped.

    Raises:
        ValueError: if the file is missing, holds an image twice, or a line is malformed.
    """
    rows = []
    for number, record in read_json_lines(path):
        try:
            verdict = ImageVerdict.model_validate(record)
        except ValidationError:
            raise ValueError(f"{path}, line {number}: not an image's verdict") from None
        rows.append((verdict.prompt_id, verdict.sample_id, verdict.tag, verdict.correct))
    frame = pd.DataFrame(rows, columns=["prompt_id", "sample_id", "tag", "correct"])
    if frame.duplicated(["prompt_id", "sample_id"]).any():
        raise ValueError(f"{path} holds an image twice: score the folder again")
    return frame.sort_values(["prompt_id", "sample_id"], ignore_index=True)


def task_means(verdicts: pd.DataFrame) -> dict[str, float]:
    """Share of correct images per task, tasks in the order of `TASKS`."""
    means = verdicts.groupby("tag")["correct"].mean()
    return {task: float(means[task]) for task in TASKS if task in means.index}


def _check(path: Path, result: Result, verdicts: pd.DataFrame) -> None:
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
    means = task_means(verdicts)
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
    _check_intervals(path, result, counts_by_task(verdicts))


def _check_intervals(path: Path, result: Result, counts: dict[str, PromptCounts]) -> None:
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


def by_protocol(folders: Iterable[ResultFolder]) -> dict[str, list[ResultFolder]]:
    """Groups that share a protocol, by `protocol_key`, ordered by slug."""
    groups: dict[str, list[ResultFolder]] = {}
    for folder in folders:
        groups.setdefault(protocol_key(folder.result.protocol), []).append(folder)
    return dict(sorted(groups.items(), key=lambda g: protocol_slug(g[1][0].result.protocol)))


def require_one_protocol(folders: Sequence[ResultFolder]) -> None:
    """Refuse to compare what was not measured alike.

    Raises:
        ValueError: naming the first field that differs.
    """
    for folder in folders[1:]:
        first = folders[0].result.protocol.model_dump()
        for field, value in folder.result.protocol.model_dump().items():
            if value != first[field]:
                raise ValueError(
                    f"one table cannot hold {field} {first[field]!r} ({folders[0].name}) and "
                    f"{value!r} ({folder.name}): render them apart"
                )


def setting_text(result: Result) -> str:
    """Sampler, update and schedule beside a row, guidance and eta apart."""
    settings = result.sampling.settings
    names = ("sampler", "update", "s_fraction", "scheduler", "dtype")
    parts = []
    for name in names:
        value = settings.get(name)
        if value is None or (name == "s_fraction" and not value):
            continue
        parts.append(f"s at {value:g}" if name == "s_fraction" else str(value))
    return ", ".join(parts)


def guidance_text(result: Result) -> str:
    """Guidance kind and scale, as in "linear 3" or "none"."""
    kind = str(result.sampling.settings.get("guidance", ""))
    scale = result.sampling.settings.get("guidance_scale")
    return kind if kind in ("none", "") or scale is None else f"{kind} {scale:g}"


def eta_of(result: Result) -> float | None:
    value = result.sampling.settings.get("eta")
    return None if value is None else float(value)
