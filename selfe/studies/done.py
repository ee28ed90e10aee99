"""Finds the results of a `geneval` command, and whether they exist; no model is opened.

The benchmark is imported where it is used: the plan of a study that has not begun needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from selfe.config.assignments import parse_assignments
from selfe.config.drawing import StepSettings, chosen_sampling
from selfe.objectives.registry import load_method
from selfe.run_folder.checkpoint import list_checkpoints
from selfe.run_folder.records import read_config
from selfe.studies.study import Study

if TYPE_CHECKING:
    from evals.suites.base import Suite


@lru_cache
def _suite(name: str, split: str, limit: int | None) -> Suite:
    from evals.scoring.settings import BenchmarkSettings

    return BenchmarkSettings(split=split, limit=limit).open_suite(name)


def result_folders(
    study: Study,
    run_dir: Path,
    checkpoints: Sequence[int],
    steps: Sequence[int],
    settings: Sequence[str] = (),
    inference: str = "",
) -> Iterator[Path]:
    """Folders of a run's results, made or to be made, checkpoint by checkpoint; missing checkpoints
    are left out.

    Args:
        checkpoints: iterations of a training.
        settings: "sampling.key=value" texts over the run's own sampling section.
        inference: a named way of drawing in place of that section.
    """
    from evals.registry import suite_for
    from evals.scoring.folders import result_folder_of

    config = read_config(run_dir)
    over = parse_assignments(settings).get("sampling", {})
    assert isinstance(over, dict)
    method = load_method(config.method)
    sampling = chosen_sampling(config, over, inference)
    drawn = StepSettings(sampling, method.label, method.prediction, inference)
    preset = config.data.preset if config.data.source == "shapes" else ""
    suite = _suite(study.suite or suite_for(preset), study.split, study.limit)
    for found in list_checkpoints(run_dir / "checkpoints"):
        if found.step not in checkpoints:
            continue
        root, weights = run_dir / "results" / found.path.name, found.digest
        for count in steps:
            facts = drawn.facts_at(count)
            yield result_folder_of(root, suite, weights, facts, count, seed=0)


def is_scored(
    study: Study,
    run_dir: Path,
    checkpoints: Sequence[int],
    steps: Sequence[int],
    settings: Sequence[str] = (),
    inference: str = "",
) -> bool:
    """Whether every checkpoint has a result for every number of steps; arguments as
    `result_folders` has them."""
    from evals.results import RESULT

    folders = list(result_folders(study, run_dir, checkpoints, steps, settings, inference))
    whole = len(folders) == len(checkpoints) * len(steps)
    return whole and all((folder / RESULT).is_file() for folder in folders)
