"""What `geneval` can score: training runs, their milestones, published models, image folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from evals.registry import suite_for
from selfe.cli.common import console, parse_pairs, pick_device, warn
from selfe.cli.suspicions import of_drawing
from selfe.config.assignments import parse_assignments
from selfe.config.drawing import chosen_sampling
from selfe.config.schema import RunConfig
from selfe.generator import TextToImage
from selfe.run_folder.checkpoint import Checkpoint
from selfe.run_folder.records import (
    find_checkpoint,
    find_runs,
    is_finished,
    milestone_steps,
    parse_run,
    read_config,
    unknown_run,
)


@dataclass(frozen=True)
class Target:
    """One model to be scored.

    Attributes:
        name: for messages.
        results: folder its results go below.
        suite: what it is scored on unless the user says otherwise.
        preset: of the shapes world, "" for photographs.
        load: builds the model.
    """

    name: str
    results: Path
    suite: str
    preset: str
    load: Callable[[], TextToImage]


def readable_runs(runs_dir: Path) -> Iterator[tuple[Path, RunConfig]]:
    """The runs below `runs_dir`; one that cannot be read is left out with a message."""
    for run_dir in find_runs(runs_dir):
        try:
            config = read_config(run_dir)
        except ValueError as error:
            console.print(f"left out: {error}", markup=False, soft_wrap=True)
        else:
            yield run_dir, config


def run_targets(
    run_dir: Path,
    steps: Sequence[int | None],
    device: str,
    sampling: dict[str, object],
    inference: str = "",
) -> list[Target]:
    """A run at its newest checkpoint (None) or at given iterations.

    Raises:
        ValueError: if there is no such run or checkpoint, or it cannot be drawn as asked.
    """
    config = read_config(run_dir)
    preset = config.data.preset if config.data.source == "shapes" else ""
    chosen_sampling(config, sampling, inference)  # refused before anything is drawn
    warn(of_drawing(config, sampling))
    targets = []
    for step in steps:
        checkpoint = find_checkpoint(run_dir, step)

        def load(checkpoint: Checkpoint = checkpoint) -> TextToImage:
            from selfe.run_folder.drawable import DrawableRun

            return DrawableRun(
                run_dir,
                step=checkpoint.step,
                device=pick_device(device),
                sampling=sampling,
                inference=inference,
            )

        targets.append(
            Target(
                name=f"{run_dir.name}@{checkpoint.step}",
                results=run_dir / "results" / checkpoint.path.name,
                suite=suite_for(preset),
                preset=preset,
                load=load,
            )
        )
    return targets


def find_targets(
    models: Sequence[str],
    *,
    runs_dir: Path,
    milestones: bool,
    device: str,
    assignments: Sequence[str],
    model_args: Sequence[str],
    inference: str = "",
) -> list[Target]:
    """The targets a user named, or every finished run.

    Raises:
        ValueError: for a name that is neither a run nor a model, listing both; for settings outside
            the sampling section, or that no named model takes; if there is nothing to score.
    """
    from baselines.registry import known

    overrides = parse_assignments(assignments)
    if set(overrides) - {"sampling"}:
        raise ValueError("--set takes sampling.KEY=VALUE here; the rest belongs to train")
    sampling = overrides.get("sampling", {})
    if not isinstance(sampling, dict):
        raise ValueError(f"sampling is a section, not a value: use --set sampling.KEY={sampling}")
    arguments = parse_pairs(model_args, "--model-arg", "KEY=VALUE", allow_empty=True)
    # the name of a published model is never that of a folder which happens to lie here
    runs = {text: None if known(text) else parse_run(text, runs_dir) for text in models}
    if arguments and all(runs.values()):
        raise ValueError("--model-arg is for published models; runs take --set sampling.KEY=VALUE")
    if sampling and models and not any(runs.values()):
        raise ValueError("--set is for runs; published models take --model-arg KEY=VALUE")
    if inference and models and not any(runs.values()):
        raise ValueError("--inference is for runs: a published model has its own sampler")
    targets: list[Target] = []
    if not models:
        for run_dir, config in readable_runs(runs_dir):
            if is_finished(run_dir, config):
                steps = milestone_steps(run_dir) if milestones else [None]
                targets += run_targets(run_dir, steps, device, sampling, inference)
            else:
                console.print(f"not finished, left out: {run_dir}", markup=False)
        if not targets:
            raise ValueError(
                f"no finished run in {runs_dir}: make one with `selfe-bench train --method selfe`, "
                "or name a model with --model"
            )
        return targets
    for text in models:
        run = runs[text]
        if run is not None:
            run_dir, step = run
            steps = milestone_steps(run_dir) if milestones and step is None else [step]
            targets += run_targets(run_dir, steps, device, sampling, inference)
        else:
            targets.append(_pretrained_target(text, runs_dir, device, arguments))
    return targets


def _pretrained_target(name: str, runs_dir: Path, device: str, arguments: dict[str, str]) -> Target:
    from baselines.registry import MODELS, known, load

    if not known(name):
        raise ValueError(unknown_run(name, runs_dir, MODELS.names()))
    folder = name.replace(":", "-").replace("/", "--")
    return Target(
        name=name,
        results=runs_dir / "pretrained" / folder / "results",
        suite=suite_for(""),
        preset="",
        load=lambda: load(name, device=pick_device(device), model_args=arguments),
    )
