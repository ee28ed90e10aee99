"""Sorts results into groups that may share a table, and names what tells them apart."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

from evals.base import ProtocolFacts
from evals.report.result_folders import ResultFolder, TrainingData
from evals.results import protocol_key, protocol_slug

PAPER_VARIANTS = {"no-target-norm": "w/o target norm.", "aux": "w/ aux. term"}
"""The paper's ablations of Self-E, and how its tables call them."""
_MOST_NAMED = 4


def tell_apart(folders: Sequence[ResultFolder]) -> list[ResultFolder]:
    """The results, trainings of one method with different data or settings as its variants.

    Of the latent caches that methods were trained on under one recipe, the one with most results
    keeps the names. Of the settings that a method and variant were trained with, the recipe's own
    do; where none are, those that all others have too, if there are any. The others are called as
    the user calls their runs, or else after the settings that were changed.
    """
    found: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for folder in folders:
        if folder.changed is not None:
            found.setdefault(_trained_as(folder), set()).add(folder.changed)
    usual = {key: _shared_settings(settings) for key, settings in found.items()}
    data = _names_of_data(folders)
    own_names = _own_names(folders, usual)
    every = []
    for folder in folders:
        its_data, settings = data.get((folder.recipe, folder.data.cache), ""), folder.changed or ()
        if folder.changed is None or settings == usual[_trained_as(folder)]:
            settings = ()
        if its_data or settings:
            model = folder.result.model
            own = own_names.get((_trained_as(folder), settings), "")
            words = [own] if own else settings
            variant = ", ".join(part for part in (model.variant, its_data, *words) if part)
            model = model.model_copy(update={"variant": variant})
            result = folder.result.model_copy(update={"model": model})
            folder = replace(folder, result=result, told_apart=bool(settings), own_name=own)
        every.append(folder)
    return every


_AUTOMATIC = re.compile(r"(?:-[a-z_]+\.[a-z_.]+[-+0-9.e]*)*(?:-seed[0-9]+)?")
"""How names of runs that no user chose end: with settings and a training seed."""


def _own_names(
    folders: Iterable[ResultFolder], usual: Mapping[tuple[str, ...], tuple[str, ...] | None]
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], str]:
    """(`_trained_as`, changed settings) -> name of the run, or what the names of several begin
    with. Settings that share a name with others, or with an ablation of the paper, have none."""
    runs: dict[tuple[tuple[str, ...], tuple[str, ...]], set[str]] = {}
    for folder in folders:
        key = _trained_as(folder)
        if folder.changed and folder.changed != usual[key]:
            runs.setdefault((key, folder.changed), set()).add(folder.run)
    names = {
        key: _common_name(own)
        for key, own in runs.items()
        if not any(_is_automatic(run, *key[0][:3]) for run in own)
    }
    taken = Counter((key[0], name) for key, name in names.items())
    others = {"", *PAPER_VARIANTS, *(folder.result.model.variant for folder in folders)}
    return {
        key: name for key, name in names.items() if name not in others and taken[key[0], name] == 1
    }


def _is_automatic(run: str, recipe: str, method: str, variant: str) -> bool:
    start = "-".join(part for part in (recipe, method) if part)
    ending = run.removeprefix(start).removeprefix(f"-{variant}" if variant else "")
    return run.startswith(start) and _AUTOMATIC.fullmatch(ending) is not None


def _common_name(runs: Collection[str]) -> str:
    if len(runs) == 1:
        return next(iter(runs))
    return re.sub(r"[-_.]*(?:seed)?[-_.]*$", "", os.path.commonprefix(sorted(runs)))


def named_ablations(folders: Iterable[ResultFolder]) -> list[tuple[str, str]]:
    """(method, variant) of the configurations that have a name of the user's, those with most
    results first; as many as a figure can hold."""
    found = Counter(
        (folder.result.model.method, folder.result.model.variant)
        for folder in folders
        if folder.own_name
    )
    return sorted(found, key=lambda key: (-found[key], key))[:_MOST_NAMED]


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


def _shared_settings(found: Collection[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Those of one training that all others have too; None where each has some of its own."""
    return next((own for own in found if all({*own} <= {*other} for other in found)), None)


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
        if protocol_key(folder.result.protocol) == protocol_key(folders[0].result.protocol):
            continue
        first = folders[0].result.protocol.model_dump()
        for field, value in folder.result.protocol.model_dump().items():
            if value != first[field]:
                raise ValueError(
                    f"one table cannot hold {field} {first[field]!r} ({folders[0].name}) and "
                    f"{value!r} ({folder.name}): render them apart"
                )
