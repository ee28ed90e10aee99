"""What a run is, how far it came and what it scored, read from its folder without torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from selfe.config.resolve import changed_settings
from selfe.config.schema import RunConfig
from selfe.files import is_held
from selfe.run_folder.checkpoint import list_checkpoints, newest_path
from selfe.run_folder.records import read_config
from selfe.sealed_files import read_sealed


@dataclass(frozen=True)
class StoredScore:
    """One result below a run.

    Attributes:
        iteration: of the checkpoint that was scored.
        suite, split, prompts, images, steps: what was measured; images of a prompt.
        overall, low, high: the score with its 95% interval; None for an incomplete set.
        folder: of the result.
    """

    iteration: int
    suite: str
    split: str
    prompts: int
    images: int
    steps: int
    overall: float | None
    low: float | None
    high: float | None
    folder: str

    @property
    def protocol(self) -> tuple[str, str, int, int]:
        """What two scores must share to stand in one line."""
        return (self.suite, self.split, self.prompts, self.images)


@dataclass(frozen=True)
class RunOverview:
    """A line of `selfe-bench ls runs`.

    Attributes:
        name: what commands take.
        state: "finished", "running" (a process holds the folder), "stopped", or "damaged" where the
            newest checkpoint cannot be used.
        changed: settings other than the recipe's; None where this version has no such recipe.
        date: of the last checkpoint or line of metrics, ISO 8601 in local time.
        scores: of the newest checkpoint that was scored.
    """

    name: str
    folder: str
    method: str
    variant: str
    recipe: str
    changed: list[str] | None
    seed: int
    iteration: int
    iterations: int
    state: str
    date: str
    milestones: list[int]
    scores: list[StoredScore]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def shown(self) -> list[StoredScore]:
        """Complete scores under the protocol of most images: what fits a line, and only what may
        be compared. The newest of two with the same number of steps."""
        whole = [score for score in self.scores if score.overall is not None]
        sizes = {score.protocol: score.prompts * score.images for score in whole}
        chosen = max(sizes, key=lambda each: sizes[each], default=None)
        return list({s.steps: s for s in whole if s.protocol == chosen}.values())


def overview(run_dir: Path, name: str, config: RunConfig | None = None) -> RunOverview:
    """Everything that `ls runs` prints about a run.

    Raises:
        ValueError: if config.json is missing or damaged.
    """
    config = config or read_config(run_dir)
    found = list_checkpoints(run_dir / "checkpoints")
    iteration = found[-1].step if found else 0
    newest = newest_path(run_dir / "checkpoints")
    if newest is not None and newest not in [checkpoint.path for checkpoint in found]:
        state = "damaged"
    elif iteration >= config.train.iterations:
        state = "finished"
    else:
        state = "running" if is_held(run_dir) else "stopped"
    return RunOverview(
        name=name,
        folder=str(run_dir),
        method=config.method,
        variant=config.variant,
        recipe=config.recipe,
        changed=changed_settings(config),
        seed=config.seed,
        iteration=iteration,
        iterations=config.train.iterations,
        state=state,
        date=_last_change(run_dir),
        milestones=[c.step for c in found if c.milestone],
        scores=latest_scores(run_dir),
    )


def _last_change(run_dir: Path) -> str:
    places = [run_dir / "config.json", run_dir / "metrics.jsonl", run_dir / "checkpoints"]
    newest = max(p.stat().st_mtime for p in places if p.exists())
    return datetime.fromtimestamp(newest).isoformat(timespec="minutes")


def stored_scores(run_dir: Path) -> Iterator[StoredScore]:
    """Results below a run, by checkpoint, suite and steps; damaged ones are passed over, which
    `geneval` makes again."""
    for path in sorted((run_dir / "results").glob("step-*/*/*/result.json")):
        try:
            record = read_sealed(path, dict[str, Any], "result")
            protocol, overall = record["protocol"], record["scores"]["overall"] or {}
            yield StoredScore(
                iteration=int(path.parents[2].name.removeprefix("step-")),
                suite=protocol["suite"],
                split=protocol["split"],
                prompts=protocol["num_prompts"],
                images=protocol["images_per_prompt"],
                steps=record["sampling"]["steps"],
                overall=overall.get("mean"),
                low=overall.get("low"),
                high=overall.get("high"),
                folder=str(path.parent),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue


def latest_scores(run_dir: Path) -> list[StoredScore]:
    """Those of the newest checkpoint that has any."""
    scores = list(stored_scores(run_dir))
    newest = max((score.iteration for score in scores), default=0)
    latest = [score for score in scores if score.iteration == newest]
    return sorted(latest, key=lambda score: (score.suite, score.split, score.steps))
