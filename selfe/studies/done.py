"""Whether the results that a `geneval` command would make are on disk, without opening a model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from evals.registry import suite_for
from evals.results import RESULT
from evals.scoring.benchmark import BenchmarkSettings, result_folder_of
from evals.suites.base import Suite
from selfe.config.assignments import parse_assignments
from selfe.generation.any_step import sampling_facts
from selfe.run_folder.checkpoint import list_checkpoints
from selfe.run_folder.model import override_sampling
from selfe.run_folder.records import read_config
from selfe.studies.study import Study


@lru_cache
def _suite(name: str, limit: int | None) -> Suite:
    return BenchmarkSettings(limit=limit).open_suite(name)


def is_scored(
    study: Study,
    run_dir: Path,
    checkpoints: Sequence[int],
    steps: Sequence[int],
    settings: Sequence[str],
) -> bool:
    """Whether every checkpoint has a result for every number of steps.

    Args:
        checkpoints: iterations of a training.
        settings: "sampling.key=value" texts over the run's own sampling section.
    """
    config = read_config(run_dir)
    over = parse_assignments(settings).get("sampling", {})
    assert isinstance(over, dict)
    sampling = override_sampling(config.sampling, over)
    preset = config.data.preset if config.data.source == "shapes" else ""
    suite = _suite(study.suite or suite_for(preset), study.limit)
    found = {c.step: c for c in list_checkpoints(run_dir / "checkpoints")}
    for step in checkpoints:
        if step not in found:
            return False
        root = run_dir / "results" / found[step].path.name
        for count in steps:
            facts = sampling_facts(sampling.at(count))
            folder = result_folder_of(root, suite, found[step].digest, facts, count, seed=0)
            if not (folder / RESULT).is_file():
                return False
    return True
