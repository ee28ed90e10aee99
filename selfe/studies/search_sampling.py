"""Search of the sampling settings of finished shapes runs, on validation prompts.

For every run and number of steps the settings of `selfe.config.search_space` are scored: as many
for every method, first ways of moving and guidance, then shifts of the time grid of the best. Where
a shift wins at 2 steps its diversity stands beside that of the same setting without it, because a
grid near the data can buy score with collapse.

search.json holds every setting with its score, search.md a table for every run with its command,
commit and machine. What was scored before is not scored again, and the runs of earlier searches
stay in both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from selfe.config.resolve import changed_settings
from selfe.config.search_space import BARE, Setting, first_stage, second_stage
from selfe.files import write_atomically
from selfe.generation.any_step import AnyStepGenerator
from selfe.generator import TextToImage
from selfe.json_files import STRICT
from selfe.objectives.registry import load_method
from selfe.provenance import provenance
from selfe.run_folder.model import load_run
from selfe.run_folder.records import find_checkpoint, read_config
from selfe.sealed_files import seal
from selfe.studies.validation import ValidationScorer, read_found

WHAT = "search of sampling"


@dataclass(frozen=True)
class SearchedRun:
    """A run whose settings are searched.

    Attributes:
        name: in the tables.
        step: iteration of its checkpoint; None for the newest.
    """

    name: str
    folder: Path
    step: int | None = None


@dataclass(frozen=True)
class Trial:
    """One run at one number of steps, under any sampling settings.

    Attributes:
        load: the run as a model that draws, with `sampling` settings.
    """

    load: Callable[..., TextToImage]
    scorer: ValidationScorer
    steps: int

    def best(
        self,
        settings: Sequence[Setting],
        scores: Mapping[str, float],
        save: Callable[[str, float], None],
    ) -> Setting:
        """The best of these by validation score; those without one are scored and saved."""
        for setting in settings:
            if (key := json.dumps(setting)) not in scores:
                save(key, self.scorer.score(self.load(sampling=setting), self.steps))
        return max(settings, key=lambda setting: scores[json.dumps(setting)])

    def diversity(self, setting: Setting) -> dict[str, float]:
        return self.scorer.diversity(self.load(sampling=setting), self.steps)


def search_sampling(
    runs: Sequence[SearchedRun],
    steps: Sequence[int],
    *,
    per_task: int,
    samples: int,
    out: Path,
    command: str,
    device: str = "cpu",
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, str]]:
    """Search, and write search.json and search.md into `out`.

    Args:
        per_task, samples: as `ValidationScorer` takes them.
        command: recorded beside the figures.
        say: gets a line for every setting that was scored.

    Returns:
        Run -> "N steps" -> the best setting as JSON, of all runs in search.json.

    Raises:
        ValueError: for a run of photographs, whose suite has no validation prompts, or a damaged
            one.
    """
    for run in runs:
        if read_config(run.folder).data.source != "shapes":
            raise ValueError(
                f"{run.name} draws photographs, whose suite has no validation prompts: settings "
                "are searched on runs of the shapes world"
            )
    out.mkdir(parents=True, exist_ok=True)
    path = out / "search.json"
    results = read_search(path)
    scorers: dict[str, ValidationScorer] = {}
    for run in runs:
        config = read_config(run.folder)
        preset = config.data.preset
        scorer = scorers.setdefault(preset, ValidationScorer(preset, per_task, samples, device))
        load = partial(_load_bare, run, device)
        height, width = load({}).latent_shape[1:]
        how = {
            "command": command,
            "prompts": len(scorer.suite.records),
            "samples": samples,
            "settings": changed_settings(config) or [],
            "weights": find_checkpoint(run.folder, run.step).digest,
        }
        made = results["made"].setdefault(run.name, how | provenance())
        for name, value in how.items():
            # earlier versions did not say which weights
            if name != "command" and made.get(name, value) != value:
                raise ValueError(
                    f"{path} holds a search of {run.name} with other {name}: choose another folder "
                    "with --out"
                )
        for count in steps:
            title = f"{count} steps"
            scores = results["runs"].setdefault(run.name, {}).setdefault(title, {})

            def save(key: str, score: float, scores=scores, title=f"{run.name} {title}") -> None:
                scores[key] = score
                say(f"{title} {key}: {score:.3f}")
                write_atomically(path, seal(WHAT, results))

            trial = Trial(load, scorer, count)
            plain = trial.best(first_stage(load_method(config.method)), scores, save)
            tokens = (height // 2) * (width // 2)
            best = trial.best([plain, *second_stage(plain, tokens)], scores, save)
            told = results.setdefault("diversity", {}).setdefault(run.name, {})
            if count == 2 and "shift" in best and title not in told:
                pairs = {"without it": plain, "with it": best}
                told[title] = {words: trial.diversity(each) for words, each in pairs.items()}
                write_atomically(path, seal(WHAT, results))
    write_atomically(out / "search.md", render(results))
    return {
        run: {title: max(scores, key=scores.get) for title, scores in by_steps.items()}
        for run, by_steps in results["runs"].items()
    }


def _load_bare(run: SearchedRun, device: str, sampling: Setting) -> AnyStepGenerator:
    """The run, drawn by `sampling` alone: not by what its recipe has beside that."""
    return load_run(run.folder, step=run.step, device=device, sampling={**BARE, **sampling})


class _Search(BaseModel):
    """Content of search.json: run -> number of steps -> setting as JSON -> score."""

    model_config = STRICT

    made: dict[str, dict[str, Any]]
    runs: dict[str, dict[str, dict[str, float]]]
    diversity: dict[str, dict[str, dict[str, dict[str, float] | None]]] = {}


def read_search(path: Path) -> dict[str, Any]:
    """Content of search.json; that of an empty one where there is none.

    Raises:
        ValueError: if it is damaged; names it.
    """
    return read_found(path, _Search, WHAT, {"made": {}, "runs": {}})


def render(results: dict[str, Any]) -> str:
    lines = [
        "# Search of sampling settings on validation prompts",
        "",
        "Overall scores with benchmark seed 1. Bold: the best; reports use those of runs "
        "that follow their recipe.",
        "",
    ]
    for run, by_steps in results["runs"].items():
        facts = results["made"][run]
        lines += [
            f"## {run}",
            "",
            f"`{facts['command']}`, commit {facts['commit']}, {facts['machine']}; "
            f"{facts['prompts']} prompts x {facts['samples']} images; trained as "
            + (", ".join(facts["settings"]) or "the recipe says")
            + ".",
            "",
            "| setting | " + " | ".join(by_steps) + " |",
        ]
        lines.append("|---" * (1 + len(by_steps)) + "|")
        # shifts are those of each number of steps' own best
        for name in dict.fromkeys(name for scores in by_steps.values() for name in scores):
            cells = []
            for scores in by_steps.values():
                best = max(scores, key=scores.get)
                text = f"{scores[name]:.3f}" if name in scores else ""
                cells.append(f"**{text}**" if name == best else text)
            settings = ", ".join(f"{k} {v}" for k, v in json.loads(name).items())
            lines.append(f"| {settings} | " + " | ".join(cells) + " |")
        lines.append("")
        for steps, found in results.get("diversity", {}).get(run, {}).items():
            lines += [
                f"At {steps} a shift wins. Total variation to the data, where captions leave it: "
                + "; ".join(
                    f"{name} {values['tv']:.3f} (equally many images of the data "
                    f"{values['tv_data']:.3f})"
                    for name, values in found.items()
                    if values
                )
                + ".",
                "",
            ]
    return "\n".join(lines)
