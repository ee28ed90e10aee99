"""Folders of training runs: which there are, what they were trained with, and their weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from selfe.any_step import AnyStepGenerator, sampling_facts
from selfe.builder import build_codec, build_model, build_text_encoder
from selfe.checkpoint import (
    Checkpoint,
    list_checkpoints,
    load_tensors,
    load_weights,
    newest_path,
    verify,
)
from selfe.config import RunConfig, SamplingConfig, validate, validate_section
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.files import write_atomically
from selfe.generator import GeneratorFacts
from selfe.recipes import changed_settings


def write_config(run_dir: Path, config: RunConfig, **facts: object) -> None:
    """config.json: the resolved configuration, its digest, and how the run was started."""
    record = {"config": config.model_dump(mode="json"), "digest": config.digest, **facts}
    write_atomically(run_dir / "config.json", json.dumps(record, indent=1).encode())


def latent_shape_of(config: RunConfig, codec: LatentCodec) -> tuple[int, int, int]:
    """(C, h, w) of the images a run is trained on."""
    if config.data.source == "shapes":
        from selfe.data.shapes_world import ShapesWorld

        size = ShapesWorld(config.data.preset).image_size
    else:
        size = config.data.resolution
    side = size // codec.downsample
    return (codec.latent_channels, side, side)


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


def _data_facts(config: RunConfig, run_dir: Path) -> dict[str, object]:
    """Which latent cache a run was trained on; nothing for data that follow from the settings."""
    cache = recorded_data(run_dir).get("cache")
    return {"data": {"cache": cache, "path": config.data.path}} if cache else {}


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


def override_sampling(base: SamplingConfig, over: dict[str, object]) -> SamplingConfig:
    """A run's sampling section with a user's overrides, which apply to every number of steps.

    Raises:
        ValueError: for an unknown key or a value that does not fit.
    """
    values = validate_section(SamplingConfig, {**base.model_dump(), **over}, "sampling").model_dump(
        exclude_none=True
    )
    if over:
        values["by_steps"] = {
            steps: {key: value for key, value in entry.items() if key not in over}
            for steps, entry in values["by_steps"].items()
        }
    return validate_section(SamplingConfig, values, "sampling")


def load_run(
    run_dir: Path,
    *,
    step: int | None = None,
    device: torch.device | str = "cpu",
    sampling: dict[str, object] | None = None,
) -> AnyStepGenerator:
    """The moving-average weights of a run's checkpoint, ready to draw.

    Args:
        step: iteration; None for the newest.
        sampling: overrides of the run's own sampling section.

    Raises:
        ValueError: if there is no such run or checkpoint, or the checkpoint is damaged.
    """
    config, started = read_config(run_dir), recorded_facts(run_dir)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path)
    network = build_model(config, device)
    weights = checkpoint.path / "ema.safetensors"
    load_weights(network, load_tensors(weights), weights)
    codec, text = build_codec(config, device), build_text_encoder(config, device)
    check_encoders(run_dir, codec, text)
    settings = override_sampling(config.sampling, sampling or {})
    shape = latent_shape_of(config, codec)
    facts = GeneratorFacts(
        name=f"{run_dir.name}@{checkpoint.step}",
        label=config.label,
        method=config.method,
        variant=config.variant,
        iterations=checkpoint.step,
        digest=checkpoint.digest,
        resolution=(shape[1] * codec.downsample, shape[2] * codec.downsample),
        parameters=sum(p.numel() for p in network.parameters()),
        sampling=sampling_facts(settings),
        training={
            "recipe": config.recipe,
            "seed": config.seed,
            "iterations_planned": config.train.iterations,
            "config_digest": config.digest,
            "seedless_digest": config.seedless_digest,
            "text": config.data.text,
            "changed": changed_settings(config),
            "precision": started.get("precision", config.train.precision),
            "init_from": started.get("init_from"),
            **({} if config.data.signal == 1 else {"signal": config.data.signal}),
            **_data_facts(config, run_dir),
        },
    )
    return AnyStepGenerator(
        network,
        codec,
        text,
        latent_shape=shape,
        settings=settings,
        facts=facts,
    )
