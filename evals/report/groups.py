"""Sorts results into groups that may share a table, and names what tells them apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import PurePath
from typing import Any

from evals.base import ProtocolFacts
from evals.report.result_folders import ResultFolder, TrainingData
from evals.results import protocol_key, protocol_slug


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


def by_protocol(folders: Iterable[ResultFolder]) -> dict[str, list[ResultFolder]]:
    """Groups that share a protocol, by `protocol_key`, ordered by slug.

    A published model has one way of being drawn: it stands in every group that differs from its own
    in the inference of trained models alone.
    """
    groups: dict[str, list[ResultFolder]] = {}
    every = list(folders)
    for folder in every:
        groups.setdefault(protocol_key(folder.result.protocol), []).append(folder)
    for members in groups.values():
        protocol = members[0].result.protocol
        if protocol.inference:
            members += [
                _under(folder, protocol)
                for folder in every
                if folder.result.model.iterations is None
                and folder.result.protocol.model_copy(update={"inference": protocol.inference})
                == protocol
            ]
    return dict(sorted(groups.items(), key=lambda g: protocol_slug(g[1][0].result.protocol)))


def _under(folder: ResultFolder, protocol: ProtocolFacts) -> ResultFolder:
    return replace(folder, result=folder.result.model_copy(update={"protocol": protocol}))


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
