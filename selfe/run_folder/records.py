"""Folders of training runs: which there are, what they were trained with, and their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfe.config.resolve import validate
from selfe.config.schema import RunConfig
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.files import write_atomically
from selfe.run_folder.checkpoint import (
    Checkpoint,
    list_checkpoints,
    newest_path,
)


def write_config(run_dir: Path, config: RunConfig, **facts: object) -> None:
    """config.json: the resolved configuration, its digest, and how the run was started."""
    record = {"config": config.model_dump(mode="json"), "digest": config.digest, **facts}
    write_atomically(run_dir / "config.json", json.dumps(record, indent=1).encode())


def read_config(run_dir: Path) -> RunConfig:
    """The resolved configuration of a run.

    Raises:
        ValueError: if the folder holds no run, or its config.json is damaged.
    """
    path = run_dir / "config.json"
    if not path.is_file():
        raise ValueError(f"no run at {run_dir}: {path.name} is missing")
    values = recorded_facts(run_dir)["config"]
    try:
        return validate(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None


def recorded_facts(run_dir: Path) -> dict[str, Any]:
    """How a run was started: config.json.

    Raises:
        ValueError: if it is damaged.
    """
    path = run_dir / "config.json"
    try:
        record = json.loads(path.read_text())
    except ValueError as error:  # no JSON, or not even text
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError(f"{path} is damaged (it holds no configuration)")
    return record


def recorded_data(run_dir: Path) -> dict[str, str]:
    """What the data source said of itself when the run was started (`BatchSource.facts`)."""
    return recorded_facts(run_dir).get("data", {})


def check_data(run_dir: Path, facts: Mapping[str, str]) -> None:
    """Raise ValueError where a run would go on with other data than it was started with."""
    recorded = recorded_data(run_dir)
    for name, value in facts.items():
        if recorded.get(name, value) != value:
            raise ValueError(
                f"{run_dir} was started on another {name}: resume it with the data.path it had, "
                "or give the new run another --name"
            )


def check_encoders(run_dir: Path, codec: LatentCodec, text: TextEncoder) -> None:
    """Raise ValueError where images would be drawn with other encoders than those that made a
    run's latents and features."""
    recorded = recorded_data(run_dir)
    for name, encoder in (("codec", codec), ("text", text)):
        if recorded.get(name, encoder.digest) != encoder.digest:
            raise ValueError(
                f"{run_dir} was trained on features of the {name} {recorded[name]}, not of "
                f"{encoder.digest}: set data.revision and data.text_tokens as they were"
            )


def find_checkpoint(run_dir: Path, step: int | None = None) -> Checkpoint:
    """The newest checkpoint of a run, or the one at `step`.

    Raises:
        ValueError: if there is none, listing what there is; if a newer one cannot be read.
    """
    available = list_checkpoints(run_dir / "checkpoints")
    chosen = [c for c in available if step is None or c.step == step]
    if not chosen:
        steps = ", ".join(str(c.step) for c in available) or "none"
        wanted = "no checkpoint yet" if step is None else f"no checkpoint at iteration {step}"
        raise ValueError(f"{run_dir} has {wanted} (available: {steps})")
    newest = newest_path(run_dir / "checkpoints")
    if step is None and newest != chosen[-1].path:
        raise ValueError(
            f"{newest} is damaged: `selfe-bench train --resume` goes on from the one before, which "
            f"can be named as {run_dir}@{chosen[-1].step} too"
        )
    return chosen[-1]


def find_runs(runs_dir: Path) -> list[Path]:
    """Folders below `runs_dir` that hold a training run."""
    return sorted(path.parent for path in runs_dir.glob("*/config.json"))


def is_finished(run_dir: Path, config: RunConfig) -> bool:
    found = list_checkpoints(run_dir / "checkpoints")
    return bool(found) and found[-1].step >= config.train.iterations


def parse_run(text: str, runs_dir: Path) -> tuple[Path, int | None] | None:
    """RUN or RUN@STEP, a folder or a name below `runs_dir`; None where there is no such folder."""
    name, at, step = text.rpartition("@")
    forms = [(name, int(step)), (text, None)] if at and step.isdigit() else [(text, None)]
    for path_text, number in forms:
        for folder in (Path(path_text), runs_dir / path_text):
            if (folder / "config.json").is_file():
                return folder, number
    return None


def milestone_steps(run_dir: Path) -> list[int | None]:
    return [c.step for c in list_checkpoints(run_dir / "checkpoints") if c.milestone]
