"""`selfe-bench ls`: runs, results, models, methods and settings as a table or as JSON. Nothing here
starts torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from selfe.cli import options
from selfe.cli.common import RUNS
from selfe.cli.tables import Column, as_table


class Listing(StrEnum):
    runs = "runs"
    results = "results"
    models = "models"
    methods = "methods"
    recipes = "recipes"
    settings = "settings"
    suites = "suites"
    studies = "studies"


COLUMNS: dict[Listing, Sequence[Column]] = {
    Listing.runs: (
        Column("name", "run"),
        Column("method", keep=5),
        Column("changes", keep=3),
        Column("progress", "iteration", keep=7),
        Column("state", keep=6),
        Column("date", keep=2),
        Column("latest", "scores (steps: overall)", keep=8),
    ),
    Listing.results: (
        Column("model", "run or model"),
        Column("iteration", keep=3, right=True),
        Column("suite", keep=5),
        Column("prompts", keep=2, right=True),
        Column("steps", right=True),
        Column("overall", right=True),
        Column("interval", "95% interval", keep=6),
        Column("folder", keep=1),
    ),
    Listing.models: (
        Column("name", "model"),
        Column("label", keep=3),
        Column("resolution", keep=4),
        Column("guidance", keep=2),
        Column("dtype", keep=1),
        Column("licence", keep=5),
        Column("repository", keep=0),
    ),
    Listing.methods: (
        Column("method"),
        Column("label", "name", keep=3),
        Column("variants", keep=2),
        Column("objective", "class", keep=1),
    ),
    Listing.recipes: (
        Column("recipe"),
        Column("about", wrap=True),
        Column("parameters", keep=3, right=True),
        Column("iterations", keep=5, right=True),
        Column("batch", keep=4, right=True),
        Column("lr", keep=2, right=True),
        Column("precision", keep=1),
    ),
    Listing.settings: (
        Column("key", "setting"),
        Column("value", keep=3),
        Column("takes", keep=1),
        Column("about", keep=2, wrap=True),
    ),
    Listing.suites: (
        Column("suite"),
        Column("prompts", right=True),
        Column("images", keep=2, right=True),
        Column("splits", keep=1),
        Column("detector", keep=3),
    ),
    Listing.studies: (
        Column("study"),
        Column("what", keep=2, wrap=True),
        Column("recipe", keep=3),
        Column("methods", keep=1),
    ),
}


def ls(
    what: Annotated[Listing, typer.Argument(help="What to list.")] = Listing.runs,
    as_json: options.AsJson = False,
    runs_dir: options.RunsDir = RUNS,
    recipe: Annotated[str, typer.Option(help="Of `ls settings`.")] = "shapes",
    method: Annotated[str, typer.Option(help="Of `ls settings`.")] = "selfe",
) -> None:
    """List runs, results, suites, models, methods, recipes, settings or studies as a table."""
    rows = {
        Listing.runs: lambda: run_rows(runs_dir),
        Listing.results: lambda: result_rows(runs_dir),
        Listing.models: _models,
        Listing.methods: _methods,
        Listing.recipes: _recipes,
        Listing.settings: lambda: _settings(recipe, method),
        Listing.suites: _suites,
        Listing.studies: _studies,
    }[what]()
    if as_json:
        typer.echo(json.dumps([{k: v for k, v in row.items() if k[0] != "_"} for row in rows]))
        return
    shown = [{k.removeprefix("_"): v for k, v in row.items()} for row in rows]
    typer.echo(as_table(shown, COLUMNS[what]))
    if not rows:
        typer.echo(f"none in {runs_dir}: train one with `selfe-bench train --method selfe`")


# Keys of rows that begin with "_" are for the table alone; where one has the name of another, it
# is that one in few words.


def run_rows(runs_dir: Path) -> list[dict[str, Any]]:
    """A row per run below `runs_dir`, the newest first."""
    from selfe.cli.targets import readable_runs
    from selfe.run_folder.overview import overview
    from selfe.run_folder.records import run_names

    found = list(readable_runs(runs_dir))
    names = run_names([folder for folder, _ in found], runs_dir)
    rows = []
    for folder, config in found:
        seen = overview(folder, names[folder], config)
        method = f"{seen.method} ({seen.variant})" if seen.variant else seen.method
        changes = [*(seen.changed or []), *([f"seed={seen.seed}"] if seen.seed else [])]
        latest = [f"{s.steps}: {s.overall:.3f}" for s in seen.shown]
        rows.append(
            {
                **seen.as_json(),
                "_method": method,
                "_changes": changes,
                "_progress": f"{seen.iteration:,}/{seen.iterations:,}",
                "_date": seen.date.replace("T", " "),
                "_latest": latest,
            }
        )
    return sorted(rows, key=lambda row: row["date"], reverse=True)


def result_rows(runs_dir: Path) -> list[dict[str, Any]]:
    """A row per result below `runs_dir`, of runs, published models and folders of images."""
    from evals.results import RESULT, read_result, walk_results

    rows: list[dict[str, Any]] = []
    for folder in sorted(place for place, files in walk_results(runs_dir) if RESULT in files):
        try:
            result = read_result(folder)
        except ValueError as error:
            typer.echo(f"left out: {error}", err=True)
            continue
        protocol, overall = result.protocol, result.scores.overall
        suite = f"{protocol.suite} {protocol.split}".strip()
        rows.append(
            {
                "model": result.model.name.partition("@")[0],
                "label": f"{result.model.label} {result.model.variant}".strip(),
                "iteration": result.model.iterations,
                "suite": protocol.suite,
                "split": protocol.split,
                "prompts": protocol.num_prompts,
                "images_per_prompt": protocol.images_per_prompt,
                "steps": result.sampling.steps,
                "nfe": result.sampling.nfe,
                "seed": result.sampling.seed,
                "overall": overall and overall.mean,
                "low": overall and overall.low,
                "high": overall and overall.high,
                "tasks": {task: each.mean for task, each in result.scores.tasks.items()},
                "partial": result.scores.partial,
                "folder": str(folder),
                "_suite": suite,
                "_prompts": f"{protocol.num_prompts}x{protocol.images_per_prompt}",
                "_overall": f"{overall.mean:.3f}" if overall else "partial",
                "_interval": f"[{overall.low:.3f}, {overall.high:.3f}]" if overall else "",
            }
        )
    return rows


def _models() -> list[dict[str, Any]]:
    from baselines.registry import list_models

    rows = list_models()
    for row in rows:
        height, width = row["resolution"]
        scale = f" {row['guidance_scale']:g}" if row["guidance_scale"] else ""
        row |= {"_resolution": f"{width}x{height}", "_guidance": row["guidance"] + scale}
    return rows


def _methods() -> list[dict[str, Any]]:
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


def _recipes() -> list[dict[str, Any]]:
    from selfe.config.recipes import ABOUT, RECIPES
    from selfe.config.resolve import resolve
    from selfe.network.flops import parameter_counts

    rows = []
    for name in RECIPES:
        config = resolve(name, "fm")
        sections = config.model_dump(mode="json")
        count = parameter_counts(config.model.model_dump())[0]
        rows.append(
            {
                "recipe": name,
                "about": ABOUT.get(name, ""),
                "parameters": count,
                **{k: sections[k] for k in ("model", "data", "optim", "train")},
                "_parameters": f"{count / 1e6:,.1f}M",
                "_iterations": f"{config.train.iterations:,}",
                "_batch": f"{config.train.batch_size:,}",
                "_lr": config.optim.lr,
                "_precision": config.train.precision,
            }
        )
    return rows


def _settings(recipe: str, method: str) -> list[dict[str, Any]]:
    from selfe.config.describe import list_settings
    from selfe.config.objective_outline import settings_class
    from selfe.config.resolve import resolve

    config = resolve(recipe, method)
    rows = [asdict(setting) for setting in list_settings(config, settings_class(method))]
    for row in rows:
        row["_value"] = json.dumps(row["value"])
    return rows


def _suites() -> list[dict[str, Any]]:
    from evals.registry import SUITES, open_suite

    rows: list[dict[str, Any]] = []
    for name in SUITES:
        try:
            suite = open_suite(name)
        except ValueError as error:  # one that reads the user's own prompts
            rows.append({"suite": name, "needs": str(error), "_detector": "needs --prompts FILE"})
            continue
        splits = ["heldout", "validation"] if suite.split else []
        rows.append(
            {
                "suite": name,
                "prompts": len(suite.records),
                "images": suite.images_per_prompt,
                "splits": splits,
                "detector": suite.detector,
                "color_classifier": suite.color_classifier,
                "sha256": suite.prompts_sha256,
                "_prompts": f"{len(suite.records):,}",
            }
        )
    return rows


def _studies() -> list[dict[str, Any]]:
    from selfe.studies.catalog import STUDIES

    return [
        {
            "study": study.name,
            "what": study.title,
            "recipe": study.recipe,
            "methods": [entry.name or entry.label for entry in study.entries],
        }
        for study in STUDIES.values()
    ]
