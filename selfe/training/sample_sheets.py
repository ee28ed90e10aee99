"""Sheets of sample images, drawn while a run is training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import nn

from selfe.config.schema import RunConfig
from selfe.distributed.processes import OneProcess
from selfe.encoders.registry import build_codec, build_text_encoder
from selfe.generation.any_step import AnyStepGenerator
from selfe.generator import GeneratorFacts, image_seed
from selfe.objectives.registry import load_method
from selfe.run_folder.model import build_model, latent_shape_of
from selfe.run_folder.records import check_encoders

SAMPLE_STEPS = (1, 2, 4, 8)


class SampleSheets:
    """Draws the same prompts at 1, 2, 4 and 8 steps and writes samples/step-XXXXXXXX.png.

    Attributes:
        mirror: told the pixels of every sheet and its iteration.
    """

    PROMPTS = {
        "shapes": (
            "a photo of a star",
            "a photo of two circles",
            "a photo of a red square and a blue ring",
            "a photo of a cross above a triangle",
        ),
        "latents": (
            "a photo of a red car",
            "a photo of three cats",
            "a photo of a green apple and a yellow cup",
            "a photo of a dog right of a bench",
        ),
    }

    def __init__(self, config: RunConfig, run_dir: Path, processes: OneProcess) -> None:
        self.config, self.run_dir, self.processes = config, run_dir, processes
        self.mirror: Callable[[np.ndarray, int], None] = lambda sheet, step: None
        processes.on_main(self._load_encoders)

    def _load_encoders(self) -> None:
        self.codec = build_codec(self.config, self.processes.device)
        self.text = build_text_encoder(self.config, "cpu")
        check_encoders(self.run_dir, self.codec, self.text)

    def __call__(self, network: nn.Module, step: int) -> None:
        """Every process takes part, for its shards of the weights; the main one draws."""
        whole = self.processes.whole(
            network, lambda: build_model(self.config, self.processes.device)
        )
        if whole is not None:
            self._draw(whole, step)

    def _draw(self, network: nn.Module, step: int) -> None:
        from selfe.generation.contact_sheet import write_sheet

        config = self.config
        method = load_method(config.method)
        shape = latent_shape_of(config, self.codec)
        facts = GeneratorFacts("training", method.label, config.method, "", shape[1:])
        settings = config.sampling.model_copy(update={"batch_slots": 4})
        generator = AnyStepGenerator(
            network,
            self.codec,
            self.text,
            latent_shape=shape,
            settings=settings,
            facts=facts,
            prediction=method.prediction,
        )
        prompts = self.PROMPTS[config.data.source]
        seeds = [image_seed(config.seed, prompt, 0) for prompt in prompts]
        rows = [generator.generate(prompts, steps, seeds) for steps in SAMPLE_STEPS]
        folder = self.run_dir / "samples"
        folder.mkdir(exist_ok=True)
        self.mirror(write_sheet(folder / f"step-{step:08d}.png", rows), step)
