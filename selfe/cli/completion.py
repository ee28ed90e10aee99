"""What the shell may complete: names of runs, models, methods, recipes and settings.

Install it once with `selfe-bench --install-completion`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def complete_methods(incomplete: str) -> list[str]:
    from selfe.objectives.registry import METHODS

    return _starting(METHODS.names(), incomplete)


def complete_recipes(incomplete: str) -> list[str]:
    from selfe.config.recipes import RECIPES

    return _starting(RECIPES, incomplete)


def complete_runs(incomplete: str) -> list[str]:
    """Runs below runs/; another --runs-dir is not known while a word is being typed."""
    from selfe.run_folder.records import find_runs, run_names

    runs_dir = Path("runs")
    return _starting(run_names(find_runs(runs_dir), runs_dir).values(), incomplete)


def complete_models(incomplete: str) -> list[str]:
    """Runs and published models."""
    from baselines.registry import MODELS

    return complete_runs(incomplete) + _starting(MODELS.names(), incomplete)


def complete_settings(incomplete: str) -> list[str]:
    """ "optim.lr=" and the like, of every section but the objective's."""
    from selfe.config.describe import setting_keys
    from selfe.config.schema import RunConfig

    return _starting([f"{key}=" for key in setting_keys(RunConfig)], incomplete)


def complete_suites(incomplete: str) -> list[str]:
    from evals.registry import SUITES

    return _starting(SUITES.names(), incomplete)


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
