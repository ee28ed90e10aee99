"""Builds the objects that a configuration names, and loads a run as a model that draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from selfe.config.drawing import chosen_sampling, sampling_facts
from selfe.config.resolve import changed_settings
from selfe.config.schema import ModelConfig, RunConfig
from selfe.encoders.base import LatentCodec
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.generation.any_step import AnyStepGenerator
from selfe.generator import GeneratorFacts
from selfe.network.flops import parameter_counts
from selfe.objectives.registry import load_method
from selfe.run_folder.checkpoint import load_tensors, load_weights, verify
from selfe.run_folder.records import (
    check_encoders,
    find_checkpoint,
    owner_of,
    read_config,
    read_record,
    recorded_data,
)

if TYPE_CHECKING:
    from selfe.network.denoiser import DualTimeDenoiser


def build_model(config: RunConfig, device: torch.device | str) -> DualTimeDenoiser:
    """The denoiser, initialised from the run's seed alone: the same for every method."""
    from selfe.network.denoiser import DualTimeDenoiser
    from selfe.seeding import derive_seed

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "initialisation"))
        model = DualTimeDenoiser(**config.model.model_dump())
    return model.to(device)


def count_parameters(model: ModelConfig) -> int:
    """Weights of the whole network."""
    return parameter_counts(model.model_dump())[0]


def latent_shape_of(config: RunConfig, codec: LatentCodec) -> tuple[int, int, int]:
    """(C, h, w) of the images a run is trained on."""
    if config.data.source == "shapes":
        from selfe.data.shapes_world import open_world

        size = open_world(config.data.preset).image_size
    else:
        size = config.data.resolution
    side = size // codec.downsample
    return (codec.latent_channels, side, side)


def _data_facts(config: RunConfig, run_dir: Path) -> dict[str, object]:
    """Which latent cache a run was trained on; nothing for data that follow from the settings."""
    cache = recorded_data(run_dir).get("cache")
    return {"data": {"cache": cache, "path": config.data.path}} if cache else {}


def load_run(
    run_dir: Path,
    *,
    step: int | None = None,
    device: torch.device | str = "cpu",
    sampling: dict[str, object] | None = None,
    inference: str = "",
) -> AnyStepGenerator:
    """The moving-average weights of a run's checkpoint, ready to draw.

    Args:
        step: iteration; None for the newest.
        sampling: overrides of the run's own sampling section.
        inference: a named way of drawing in place of it (`selfe.config.inference`), without
            overrides.

    Raises:
        ValueError: if there is no such run or checkpoint, the checkpoint is damaged, or the
            settings do not suit the method.
    """
    config, started = read_config(run_dir), read_record(run_dir)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path, owner_of(run_dir))
    network = build_model(config, device)
    weights = checkpoint.path / "ema.safetensors"
    load_weights(network, load_tensors(weights), weights)
    codec, text = build_codec(config, device), build_text_encoder(config, device)
    check_encoders(run_dir, codec, text)
    method = load_method(config.method)
    settings = chosen_sampling(config, sampling or {}, inference)
    shape = latent_shape_of(config, codec)
    facts = GeneratorFacts(
        name=f"{run_dir.name}@{checkpoint.step}",
        label=method.label,
        method=config.method,
        variant=config.variant,
        iterations=checkpoint.step,
        digest=checkpoint.digest,
        resolution=(shape[1] * codec.downsample, shape[2] * codec.downsample),
        parameters=sum(p.numel() for p in network.parameters()),
        sampling=sampling_facts(settings, method.prediction),
        training={
            "recipe": config.recipe,
            "seed": config.seed,
            "iterations_planned": config.train.iterations,
            "config_digest": config.digest,
            "seedless_digest": config.seedless_digest,
            "text": config.data.text,
            "changed": changed_settings(config),
            "precision": started.precision or config.train.precision,
            "init_from": started.init_from,
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
        prediction=method.prediction,
        inference=inference,
    )
