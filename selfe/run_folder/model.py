"""Builds the objects that a configuration names, and loads a run as a model that draws."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from selfe.config.schema import ModelConfig, RunConfig
from selfe.encoders.base import LatentCodec
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.generation.any_step import AnyStepGenerator
from selfe.network.flops import parameter_counts
from selfe.run_folder.checkpoint import load_tensors, load_weights, verify
from selfe.run_folder.facts import facts_of_run, image_side, step_settings
from selfe.run_folder.records import check_encoders, find_checkpoint, owner_of, read_config

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
    side = image_side(config) // codec.downsample
    return (codec.latent_channels, side, side)


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
    config = read_config(run_dir)
    checkpoint = find_checkpoint(run_dir, step)
    verify(checkpoint.path, owner_of(run_dir))
    network = build_model(config, device)
    weights = checkpoint.path / "ema.safetensors"
    load_weights(network, load_tensors(weights), weights)
    codec, text = build_codec(config, device), build_text_encoder(config, device)
    check_encoders(run_dir, codec, text)
    steps = step_settings(config, sampling, inference)
    return AnyStepGenerator(
        network,
        codec,
        text,
        latent_shape=latent_shape_of(config, codec),
        settings=steps.sampling,
        facts=facts_of_run(run_dir, config, checkpoint, steps),
        prediction=steps.prediction,
        inference=inference,
    )
