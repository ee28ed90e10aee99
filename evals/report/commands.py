"""The exact commands that make a missing row of a table."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from selfe.foreign_text import file_name

STEPS = (2, 4, 8, 50)

# Options of `geneval` that belong to the protocol, so that a missing row is measured like its
# neighbours.
_PROTOCOL_OPTIONS = (
    "--suite",
    "--split",
    "--limit",
    "--detector",
    "--prompts",
    "--images-per-prompt",
    "--seed",
)
_DEFAULT_RECIPE = "shapes"
_DEFAULT_RUNS = "runs"


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # none that a shell would take: somebody else's result
        return []


def protocol_options(command: str) -> tuple[str, ...]:
    """The options of a `geneval` command that decide its protocol."""
    words = _words(command)
    kept: list[str] = []
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if name in _PROTOCOL_OPTIONS:
            kept.append(word)
            if not equals and place + 1 < len(words):
                kept.append(words[place + 1])
    return tuple(kept)


def overrides_settings(command: str) -> bool:
    """Whether a `geneval` command sampled otherwise than the model's own settings say."""
    return any(word.split("=")[0] in ("--set", "--model-arg") for word in _words(command))


@dataclass(frozen=True)
class CommandContext:
    """What the missing rows of one table share.

    Attributes:
        recipe: training recipe of the neighbours.
        runs_dir: where runs lie.
        options: of `protocol_options`.
        changed: settings of the neighbours that are not the recipe's, as `--set` takes them.
        milestone_every: iterations from one milestone of the recipe to the next, if it keeps any.
    """

    recipe: str = _DEFAULT_RECIPE
    runs_dir: str = _DEFAULT_RUNS
    options: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    milestone_every: int | None = None

    def geneval(self, model: str, steps: Iterable[int] = STEPS, *more: str) -> str:
        """Score one model."""
        numbers = ",".join(str(n) for n in sorted(set(steps)))
        words = ["selfe-bench", "geneval", "--model", model, *more, "--steps", numbers]
        return shlex.join([*words, *self.options, *self._where()])

    def train(
        self,
        method: str,
        variant: str = "",
        iterations: int | None = None,
        horizon: int | None = None,
        steps: Iterable[int] = STEPS,
        name: str = "",
    ) -> str:
        """Train one method or ablation, then score it.

        Args:
            iterations: length of the run; None for the recipe's own.
            horizon: length of the learning-rate schedule; a shorter run keeps that of the whole.
            name: of the run, where another one has that which `train` would give it.
        """
        words = ["selfe-bench", "train", "--method", method]
        if self.recipe != _DEFAULT_RECIPE:
            words += ["--recipe", self.recipe]
        if variant:
            words += ["--variant", variant]
        settings = dict(change.split("=", 1) for change in self.changed)
        if iterations is not None:
            settings["train.iterations"] = str(iterations)
        if horizon is not None:
            settings["optim.decay_horizon"] = str(horizon)
        for key, value in settings.items():
            words += ["--set", f"{key}={value}"]
        words += ["--name", name] if name else []
        words += self._where()
        run = str(PurePosixPath(self.runs_dir) / name) if name else self.run(method, variant)
        return f"{shlex.join(words)} && {self.geneval(run, steps)}"

    def run(self, method: str, variant: str = "") -> str:
        """Folder that `train` makes."""
        name = "-".join(file_name(part) for part in (self.recipe, method, variant) if part)
        return str(PurePosixPath(self.runs_dir) / name)

    def _where(self) -> list[str]:
        return [] if self.runs_dir == _DEFAULT_RUNS else ["--runs-dir", self.runs_dir]


def not_run(command: str) -> str:
    return f"not run: {command}"
