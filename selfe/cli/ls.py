"""selfe-bench ls and selfe-bench sample."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from selfe.cli.common import (
    RUNS,
    RunsDir,
)


class Listing(StrEnum):
    models = "models"
    runs = "runs"
    methods = "methods"
    recipes = "recipes"
    settings = "settings"


def ls(
    what: Annotated[Listing, typer.Argument(help="What to list.")] = Listing.models,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
    runs_dir: RunsDir = RUNS,
    recipe: Annotated[str, typer.Option(help="Of `ls settings`.")] = "shapes",
    method: Annotated[str, typer.Option(help="Of `ls settings`.")] = "selfe",
) -> None:
    """List published models with their facts, training runs, methods, recipes or settings."""
    rows = {
        Listing.models: _models,
        Listing.runs: lambda: _runs(runs_dir),
        Listing.methods: _methods,
        Listing.recipes: _recipes,
        Listing.settings: lambda: _settings(recipe, method),
    }[what]()
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        title, *rest = row.items()
        typer.echo(str(title[1]))
        for key, value in rest:
            if value not in ("", None, [], {}):
                text = json.dumps(value) if isinstance(value, dict | list) else str(value)
                typer.echo(f"    {key}: {text}")


def _models() -> list[dict]:
    from baselines.registry import list_models

    return list_models()


def _runs(runs_dir: Path) -> list[dict]:
    from selfe.cli.targets import readable_runs
    from selfe.config.resolve import changed_settings
    from selfe.run_folder.checkpoint import list_checkpoints
    from selfe.run_folder.records import is_finished

    rows = []
    for folder, config in readable_runs(runs_dir):
        found = list_checkpoints(folder / "checkpoints")
        rows.append(
            {
                "run": str(folder),
                "method": config.method,
                "variant": config.variant,
                "recipe": config.recipe,
                "changed": changed_settings(config),
                "seed": config.seed,
                "iteration": found[-1].step if found else 0,
                "iterations": config.train.iterations,
                "finished": is_finished(folder, config),
                "milestones": [c.step for c in found if c.milestone],
            }
        )
    return rows


def _methods() -> list[dict]:
    from selfe.objectives.registry import METHODS, load_method, variants_of

    rows: list[dict] = []
    for name in METHODS:
        try:
            row = load_method(name)
        except (TypeError, ValueError) as error:  # of another package: the others can be listed
            rows.append({"method": name, "problem": str(error)})
            continue
        variants = list(variants_of(name))
        rows.append(
            {"method": name, "label": row.label, "objective": row.target, "variants": variants}
        )
    return rows


def _recipes() -> list[dict]:
    from selfe.config.recipes import RECIPES
    from selfe.config.resolve import resolve

    rows = []
    for name in RECIPES:
        config = resolve(name, "fm").model_dump(mode="json")
        rows.append({"recipe": name, **{k: config[k] for k in ("model", "data", "optim", "train")}})
    return rows


def _settings(recipe: str, method: str) -> list[dict]:
    from selfe.config.describe import list_settings
    from selfe.config.resolve import resolve
    from selfe.objectives.registry import objective_class

    config = resolve(recipe, method)
    return [asdict(setting) for setting in list_settings(config, objective_class(method))]
