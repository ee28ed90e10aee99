"""What a study is: its trainings, what each is scored on, and where all of it lies. Data only.

    methods x variants x seeds x settings  ->  trainings  ->  scores  ->  one report

`selfe.studies.catalog` has the studies of this project by name, `selfe.studies.schedule` turns one
into commands.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from selfe.config.resolve import resolve, settings_of_weights
from selfe.config.schema import RunConfig

Length = Literal["whole", "third", "beyond"]
"""How long a training is: as the recipe says; a third of that under the schedule of the whole, so
that it compares with the whole run's milestone; or forked from the whole run's end and trained for
one more milestone."""

At = Literal["end", "third", "two-thirds", "milestones"]
"""Which checkpoints of a training are scored."""

_LONGEST_NAME = 100
"""Characters of a folder's name; longer ones are cut and told apart by a digest."""


@dataclass(frozen=True)
class Entry:
    """One row of a study: trained once for every seed.

    Attributes:
        settings: of this row alone, as `--set` takes them; "{end}" stands for the iterations of
            the recipe.
        name: of a fork; other rows are named by what they are.
    """

    method: str
    variant: str = ""
    length: Length = "whole"
    settings: tuple[str, ...] = ()
    name: str = ""

    @property
    def label(self) -> str:
        """METHOD or METHOD:VARIANT, as the command line takes it."""
        return f"{self.method}:{self.variant}" if self.variant else self.method


@dataclass(frozen=True)
class Scoring:
    """One `geneval` command of every training it is for.

    Attributes:
        steps: numbers of sampler steps.
        settings: of the sampling section, as `--set` takes them.
        inference: named way of drawing, as `geneval --inference` takes it, in place of settings.
        rows: which trainings it is for: all; those of a third of the recipe's length; all others
            ("whole"); Self-E of the recipe's own length and settings alone.
    """

    steps: tuple[int, ...] = (2, 4, 8, 50)
    at: tuple[At, ...] = ("end",)
    settings: tuple[str, ...] = ()
    inference: str = ""
    rows: Literal["all", "whole", "third", "selfe"] = "all"

    def takes(self, entry: Entry) -> bool:
        if self.rows == "selfe":
            return (entry.label, entry.length, entry.settings) == ("selfe", "whole", ())
        return self.rows == "all" or (self.rows == "third") == (entry.length == "third")


@dataclass(frozen=True)
class Study:
    """Everything that decides which commands a study runs.

    Attributes:
        title: one line for lists.
        settings: of every training, as `--set` takes them.
        limit: prompts per task; None for the whole suite.
        measures: of the images of the first scoring, as `measure --with` takes them.
        suite: None for the one that the recipe's models are scored on.
        split: of suites that have any; "" for the suite's own.
        cores_per_run: None to let the schedule decide (`selfe.studies.schedule.share_cores`).
        runs_dir, out: of the trainings with their results, and of the report.
    """

    name: str
    title: str
    recipe: str
    entries: tuple[Entry, ...]
    scorings: tuple[Scoring, ...] = (Scoring(),)
    seeds: tuple[int, ...] = (0,)
    settings: tuple[str, ...] = ()
    limit: int | None = None
    measures: tuple[str, ...] = ()
    suite: str | None = None
    split: str = ""
    cores_per_run: int | None = None
    runs_dir: Path = Path("runs")
    out: Path = Path("reports/local")


@dataclass(frozen=True)
class Training:
    """One training of a study, resolved.

    Attributes:
        run_dir: its folder.
        settings: what `--set` is given.
        first_iteration: 0, or where a fork begins.
        init_from: RUN@STEP of a fork, else "".
    """

    entry: Entry
    seed: int
    run_dir: Path
    config: RunConfig
    settings: tuple[str, ...]
    first_iteration: int = 0
    init_from: str = ""

    @property
    def end(self) -> int:
        return self.config.train.iterations

    def checkpoints(self, at: tuple[At, ...], whole: int) -> list[int]:
        """Iterations that are scored; `whole` is the length of the recipe's own run.

        Raises:
            ValueError: if the run keeps no milestone at one of them.
        """
        every = self.config.train.milestone_every
        wanted: set[int] = set()
        for place in at:
            if place == "milestones":
                first = self.first_iteration + 1
                wanted |= (
                    set(range(-(-first // every) * every, self.end, every)) if every else set()
                )
                wanted.add(self.end)
            else:
                step = {"end": self.end, "third": whole // 3, "two-thirds": 2 * whole // 3}[place]
                if step <= self.end:
                    wanted.add(step)
        for step in wanted - {self.end}:
            if not every or step % every:
                raise ValueError(
                    f"recipe {self.config.recipe!r} keeps no milestone at iteration {step:,} of "
                    f"{self.end:,}: set train.iterations and train.milestone_every so that it does"
                )
        return sorted(wanted)


@dataclass
class Trainings:
    """All trainings of a study, forks after what they fork from.

    Attributes:
        whole: iterations of the recipe's own run, with the study's settings.
    """

    whole: int
    trainings: list[Training] = field(default_factory=list)


def trainings_of(study: Study) -> Trainings:
    """Resolve every row for every seed, seed by seed.

    Raises:
        ValueError: for names and settings that `train` would refuse too; for two trainings of one
            name; for a third or a fork of a run that keeps no milestone there.
    """
    if not study.entries:
        raise ValueError("a study needs at least one method: --methods selfe,fm")
    if not study.seeds:
        raise ValueError("a study needs at least one training seed: --seeds 0")
    found: dict[Path, Training] = {}
    whole = 0
    for seed in dict.fromkeys(study.seeds):
        for entry in study.entries:
            training, whole = _training(study, entry, seed)
            other = found.setdefault(training.run_dir, training)
            if other is not training:
                raise ValueError(
                    f"{training.run_dir.name} is asked for twice: name every method and every "
                    "setting once"
                )
    return Trainings(whole, list(found.values()))


def _training(study: Study, entry: Entry, seed: int) -> tuple[Training, int]:
    """The training, and the iterations of the recipe's own run."""

    def resolved(*more: str) -> RunConfig:
        return resolve(
            study.recipe,
            entry.method,
            variant=entry.variant,
            seed=seed,
            assignments=[*study.settings, *more],
        )

    recipe = resolved().train
    end, milestone = recipe.iterations, recipe.milestone_every
    settings = [*study.settings, *(text.format(end=end) for text in entry.settings)]
    first, init_from, runs_dir = 0, "", study.runs_dir
    if entry.length != "whole":
        at = {"third": end // 3, "beyond": end}[entry.length]
        if not milestone or (entry.length == "third" and end % 3) or at % milestone:
            raise ValueError(
                f"recipe {study.recipe!r} has no milestone at iteration {at:,} of {end:,}: set "
                "train.iterations to three times, and train.milestone_every to a divisor, of it"
            )
        length = at if entry.length == "third" else end + milestone
        settings += [f"train.iterations={length}", f"optim.decay_horizon={end}"]
    name = _run_name(study, entry, seed)
    if entry.length == "beyond":
        source = Entry(entry.method, entry.variant)
        init_from, first = f"{study.runs_dir / _run_name(study, source, seed)}@{end}", end
        # in a folder beside it, so that a report on the study leaves them out
        runs_dir = study.runs_dir.with_name(f"{study.runs_dir.name}-forks")
    config = resolved(*settings[len(study.settings) :])
    training = Training(entry, seed, runs_dir / name, config, tuple(settings), first, init_from)
    return training, end


def _run_name(study: Study, entry: Entry, seed: int) -> str:
    """Recipe, method, variant, the settings that decide the weights, and a seed other than 0."""
    parts = [entry.name] if entry.name else [study.recipe, entry.method, entry.variant]
    parts += [text.replace("=", "", 1) for text in settings_of_weights(study.settings)]
    if not entry.name:
        parts += [text.replace("=", "", 1) for text in settings_of_weights(entry.settings)]
    parts.append(f"seed{seed}" if seed else "")
    name = "-".join(part for part in parts if part)
    plain = re.sub(r"[^A-Za-z0-9._+-]+", "_", name)[:_LONGEST_NAME]
    if plain == name:
        return name
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def rows_for(study: Study, labels: Sequence[str]) -> tuple[Entry, ...]:
    """Rows for "METHOD" and "METHOD:VARIANT" texts, as the study has them where it does.

    Other variants get the length that the study gives its own ones.
    """
    own = {entry.label: entry for entry in study.entries if not entry.name}
    shortened = any(entry.variant and entry.length == "third" for entry in study.entries)
    rows = []
    for label in labels:
        method, _, variant = label.partition(":")
        length: Length = "third" if variant and shortened else "whole"
        rows.append(own.get(label, Entry(method, variant, length)))
    return tuple(rows)


def with_steps(study: Study, steps: Sequence[int]) -> Study:
    """The same study, every checkpoint scored at these numbers of steps."""
    scorings = dict.fromkeys(replace(each, steps=tuple(steps)) for each in study.scorings)
    return replace(study, scorings=tuple(scorings))
