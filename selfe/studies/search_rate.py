"""Search of the learning rate of methods on the validation prompts of the shapes world.

Each method is trained at each rate for the same short run, over the same seeds, as a study
(`rate_study`), then scored at 2, 4 and 8 steps with its recipe's sampling settings; the mean of the
three over the training seeds decides. learning_rate.json holds every figure, learning_rate.md the
table with command, commit and machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from selfe.config.resolve import resolve, settings_of_weights
from selfe.files import write_atomically
from selfe.json_files import STRICT
from selfe.provenance import provenance
from selfe.run_folder.records import find_checkpoint
from selfe.sealed_files import seal
from selfe.studies.study import Entry, Study, trainings_of
from selfe.studies.validation import ValidationScorer, read_found

WHAT = "search of rates"
RATES = (5e-4, 1e-3, 2e-3)
STEPS = (2, 4, 8)


def rate_study(
    recipe: str,
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    iterations: int,
    settings: Sequence[str] = (),
) -> Study:
    """Every method at every rate; the final rate stays the recipe's share of it.

    Args:
        iterations: of every training, with tau annealed over the recipe's share of them.

    Raises:
        ValueError: for a recipe of photographs, whose suite has no validation prompts, and for a
            length among the settings.
    """
    if any(text.strip().startswith("train.iterations=") for text in settings):
        raise ValueError("the length of a search of the rate is --iterations: leave out --set")
    own = resolve(recipe, methods[0])
    if own.data.source != "shapes":
        raise ValueError(
            f"recipe {recipe!r} draws photographs, whose suite has no validation prompts: search "
            "a recipe of the shapes world"
        )
    horizon = own.times.tau_horizon
    share = min(1.0, horizon / own.train.iterations) if horizon else 1.0
    return Study(
        "learning-rate",
        "search of the learning rate on validation prompts",
        recipe,
        tuple(
            Entry(method, settings=(f"optim.lr={rate:g}",)) for method in methods for rate in rates
        ),
        scorings=(),
        seeds=tuple(seeds),
        settings=(
            f"train.iterations={iterations}",
            f"times.tau_horizon={max(1, round(share * iterations))}",
            "train.milestone_every=null",
            "train.sample_every=null",
            *settings,
        ),
    )


def score_rates(
    study: Study,
    *,
    per_task: int,
    samples: int,
    out: Path,
    command: str,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Score the trainings of a `rate_study` and write learning_rate.json and .md into `out`.

    What was scored before, in another search of that folder too, stays.

    Returns:
        learning_rate.md.

    Raises:
        ValueError: if a training is missing or damaged, or the folder holds a search of another
            recipe or length.
    """
    trainings = trainings_of(study).trainings
    config = trainings[0].config
    scorer = ValidationScorer(config.data.preset, per_task, samples)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "learning_rate.json"
    results = read_rates(path)
    how = {"prompts": len(scorer.suite.records), "samples": samples, **_what(study)}
    _check_same(path, results, how)
    results |= how
    facts = provenance()
    made = f"`{command}`, commit {facts['commit']}, {facts['machine']}"
    for training in trainings:
        rate = f"{training.config.optim.lr:g}"
        by_rate = results["methods"].setdefault(training.entry.method, {})
        seeds = by_rate.setdefault(rate, {})
        weights = find_checkpoint(training.run_dir).digest
        before = seeds.get(str(training.seed))
        if before is not None and before.get("weights", weights) == weights:
            continue  # earlier versions did not say which weights
        from selfe.run_folder.model import load_run  # torch: a plan needs none

        model = load_run(training.run_dir)
        found = {str(count): scorer.score(model, count) for count in STEPS}
        mean = statistics.mean(found.values())
        seeds[str(training.seed)] = {**found, "mean": mean, "made": made, "weights": weights}
        say(
            f"{training.entry.method} at {rate}, seed {training.seed}: "
            + ", ".join(f"{count} steps {score:.3f}" for count, score in found.items())
        )
        write_atomically(path, seal(WHAT, results))
    write_atomically(out / "learning_rate.md", render(results))
    return out / "learning_rate.md"


def _what(study: Study) -> dict[str, Any]:
    """What all trainings of a search share."""
    config = trainings_of(study).trainings[0].config
    given = study.settings[4:]  # the first four are of every search (`rate_study`)
    what = {"recipe": study.recipe, "iterations": config.train.iterations}
    return what | {"settings": settings_of_weights(given)}


def _check_same(path: Path, results: dict[str, Any], how: dict[str, Any]) -> None:
    """Raises ValueError where a search has begun that differs in any of these."""
    if not results["methods"]:
        return
    for name, value in how.items():
        before = results.get(name, [] if name == "settings" else value)
        if before != value:
            raise ValueError(
                f"{path} is a search with {name} = {before}, not {value}: choose another folder "
                "with --out"
            )


class _Scores(BaseModel):
    """Of one training: by number of steps, and their mean."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False)
    __pydantic_extra__: dict[str, float]

    mean: float
    made: str
    weights: str = ""


class _Search(BaseModel):
    """Content of learning_rate.json: method -> rate -> training seed -> scores."""

    model_config = STRICT

    methods: dict[str, dict[str, dict[str, _Scores]]]
    recipe: str
    prompts: int
    samples: int
    iterations: int
    settings: list[str] = []


def read_rates(path: Path) -> dict[str, Any]:
    """Content of learning_rate.json; that of an empty one where there is none.

    Raises:
        ValueError: if it is damaged; names it.
    """
    return read_found(path, _Search, WHAT, {"methods": {}})


def only_new(study: Study, out: Path) -> Study:
    """The study without rows that are scored for all its seeds already.

    Raises:
        ValueError: if the folder holds a search of another recipe, length or other settings.
    """
    path = out / "learning_rate.json"
    results = read_rates(path)
    _check_same(path, results, _what(study))
    methods = results["methods"]

    def scored(entry: Entry) -> bool:
        rate = f"{float(entry.settings[0].partition('=')[2]):g}"
        return {str(s) for s in study.seeds} <= methods.get(entry.method, {}).get(rate, {}).keys()

    return replace(study, entries=tuple(entry for entry in study.entries if not scored(entry)))


def mean_over_seeds(seeds: dict[str, dict[str, Any]], score: str) -> float:
    return statistics.mean(scores[score] for scores in seeds.values())


def render(results: dict[str, Any]) -> str:
    made = [
        s["made"]
        for rates in results["methods"].values()
        for r in rates.values()
        for s in r.values()
    ]
    lines = [
        "# Search of the learning rate on validation prompts",
        "",
        f"{'; '.join(dict.fromkeys(made))}; recipe {results['recipe']} "
        f"with {results['iterations']} iterations, {results['prompts']} prompts x "
        f"{results['samples']} images, benchmark seed 1. Means over training seeds; in brackets "
        "those of single trainings. Bold: the highest mean of a method, and of all.",
        "",
        "| method | rate | training seeds | "
        + " | ".join(f"{n} steps" for n in STEPS)
        + " | mean |",
        "|---" * (4 + len(STEPS)) + "|",
    ]
    methods = results["methods"]
    for method, rates in methods.items():
        best = max(rates, key=lambda rate: mean_over_seeds(rates[rate], "mean"))
        for rate, seeds in rates.items():
            mean = f"{mean_over_seeds(seeds, 'mean'):.3f}"
            cells = [f"{mean_over_seeds(seeds, str(n)):.3f}" for n in STEPS]
            single = ", ".join(f"{scores['mean']:.3f}" for scores in seeds.values())
            cells.append(f"**{mean}**" if rate == best else mean)
            if len(seeds) > 1:
                cells[-1] += f" ({single})"
            lines.append(f"| {method} | {rate} | {', '.join(seeds)} | {' | '.join(cells)} |")
    shared = [r for r in next(iter(methods.values()), {}) if all(r in m for m in methods.values())]
    if len(methods) > 1 and shared:
        every = {
            r: statistics.mean(mean_over_seeds(m[r], "mean") for m in methods.values())
            for r in shared
        }
        best = max(every, key=lambda rate: every[rate])
        for rate, value in every.items():
            mean = f"**{value:.3f}**" if rate == best else f"{value:.3f}"
            lines.append(f"| all {len(methods)} | {rate} |{' |' * (1 + len(STEPS))} {mean} |")
    return "\n".join([*lines, ""])
