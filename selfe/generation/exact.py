"""The exact model of a shapes world as a text-to-image model: "Flow Matching, exact"."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from selfe.data.shapes_latents import images_to_float
from selfe.data.shapes_world import ShapesWorld
from selfe.data.shapes_world.exact_model import ExactVelocity, SceneLatents
from selfe.data.shapes_world.exact_squares import ExactSquares
from selfe.data.shapes_world.squares import SquaresWorld
from selfe.encoders.base import LatentCodec
from selfe.generation.any_step import latents_to_images
from selfe.generator import GeneratedImage, GeneratorFacts, tell_drawn
from selfe.sampler import SamplerSettings, draw_samples
from selfe.seeding import SampleRng, derive_seed

METHOD, LABEL = "fm-exact", "Flow Matching, exact"


class ExactGenerator:
    """Draws with the posterior mean over K scenes of each prompt, without guidance, in the any-step
    sampler. Noise is that of `AnyStepGenerator`: the same seed begins at the same point.

    Args:
        world, records: whose prompts can be drawn.
        codec: makes latents of scenes and images of latents; its factor is the world's signal.
        num_scenes: K; taken as 0 for the squares, whose mean is a closed form.
        settings: eta, update and time grid.
        seed: of the scenes.

    Attributes:
        scenes_in_use: effective number of scenes in the last step of every image drawn last.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        world: ShapesWorld,
        records: Sequence[Mapping[str, Any]],
        codec: LatentCodec,
        *,
        num_scenes: int,
        settings: SamplerSettings,
        signal: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.codec, self.settings = codec, settings
        self.num_scenes = 0 if isinstance(world, SquaresWorld) else num_scenes
        side = world.image_size // codec.downsample
        self.latent_shape = (codec.latent_channels, side, side)
        self._scenes = SceneLatents(
            world, records, lambda images: codec.encode(images_to_float(images)), seed
        )
        self._identity = (METHOD, world.preset.name, codec.digest, seed)
        self.chunk_size = 256
        self.scenes_in_use: list[float] = []
        self.facts = GeneratorFacts(
            name=f"exact model over {num_scenes} scenes" if self.num_scenes else "exact model",
            label=LABEL,
            method=METHOD,
            digest=self._digest(self.num_scenes),
            resolution=(world.image_size, world.image_size),
            sampling=self._sampling(),
            training={} if signal == 1 else {"signal": signal},
        )

    def with_scenes(self, count: int) -> ExactGenerator:
        """The same over another number of scenes; those that both have are drawn once."""
        other = copy.copy(self)
        other.num_scenes = count
        other.facts = dataclasses.replace(
            self.facts, name=f"exact model over {count} scenes", digest=self._digest(count)
        )
        return other

    def _digest(self, num_scenes: int) -> str:
        return f"{derive_seed(*self._identity, num_scenes):016x}"

    def _sampling(self) -> dict[str, object]:
        settings = self.settings
        facts: dict[str, object] = {
            "sampler": "any-step",
            "guidance": "none",
            "guidance_scale": 1.0,
            "eta": settings.eta,
            "update": settings.update,
            "s_fraction": settings.s_fraction,
            "warp": settings.warp,
            "base_len": settings.base_len,
        }
        return facts if settings.shift is None else facts | {"shift": settings.shift}

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        return self._sampling()

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return {}

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """See `selfe.generator.TextToImage.generate`."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        places: dict[str, list[int]] = {}
        for i, prompt in enumerate(prompts):
            places.setdefault(prompt, []).append(i)
        latents = torch.empty(len(prompts), *self.latent_shape)
        in_use = torch.empty(len(prompts), dtype=torch.float64)
        drawn = 0
        for prompt, own in places.items():
            velocity = self._velocity(prompt)
            latents[own] = self._draw(velocity, [seeds[i] for i in own], num_steps).float()
            in_use[own] = velocity.scenes_in_use
            drawn += len(own)
            tell_drawn(drawn)
        self.scenes_in_use = in_use.tolist()
        return [
            image
            for part in latents.split(self.chunk_size)
            for image in latents_to_images(self.codec.decode(part))
        ]

    def _velocity(self, prompt: str) -> ExactVelocity | ExactSquares:
        if not self.num_scenes:
            return ExactSquares(self._scenes.record(prompt), self.codec)
        return ExactVelocity(self._scenes(prompt, self.num_scenes))

    def _draw(
        self, velocity: ExactVelocity | ExactSquares, seeds: Sequence[int], num_steps: int
    ) -> Tensor:
        rng = SampleRng(0, torch.tensor(list(seeds), dtype=torch.int64))
        tokens = (self.latent_shape[1] // 2) * (self.latent_shape[2] // 2)
        return draw_samples(
            velocity,
            rng.normal("start", self.latent_shape).double(),
            num_steps,
            tokens,
            self.settings,
            lambda k: rng.normal(f"step {k}", self.latent_shape).double(),
        )
