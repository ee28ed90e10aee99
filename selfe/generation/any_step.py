"""Our denoisers as text-to-image models (selfe.generator.TextToImage), at any number of steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from selfe.batch import TextCondition, join_conditions
from selfe.config.drawing import StepSettings
from selfe.config.schema import SamplingConfig
from selfe.encoders.base import LatentCodec, TextEncoder
from selfe.generation.captions import EncodedCaptions
from selfe.generation.fixed_batches import draw_in_batches
from selfe.generator import GeneratedImage, GeneratorFacts, tell_drawn
from selfe.guidance import Guidance
from selfe.objectives.registry import Prediction
from selfe.sampler import Noise, SamplerSettings, draw_samples
from selfe.seeding import SampleRng

Velocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""V(x, t, s), of one batch's captions, guided."""


def latents_to_images(decoded: Tensor) -> list[GeneratedImage]:
    """(B, 3, H, W) in [-1, 1] -> uint8 images; None for those that are not finite."""
    finite = torch.isfinite(decoded).flatten(1).all(1).tolist()
    pixels = ((decoded.clamp(-1, 1) + 1) * 127.5).round().nan_to_num_(0).to(torch.uint8)
    arrays: np.ndarray = pixels.permute(0, 2, 3, 1).cpu().numpy()
    return [image if ok else None for image, ok in zip(arrays, finite, strict=True)]


def guidance_of(settings: SamplingConfig) -> Guidance:
    return Guidance(settings.guidance, settings.guidance_scale, settings.guidance_time)


def guided_velocity(
    network: nn.Module, condition: TextCondition, null: TextCondition, guidance: Guidance
) -> Velocity:
    """The network's velocity in float32 for one batch of captions, guided where it is asked for.

    Args:
        condition, null: (B captions), on the network's device.
    """
    # one pass over both halves keeps an accelerator busy; a processor is better served by two,
    # because the null prompt is shorter
    on_accelerator = next(network.parameters()).device.type != "cpu"
    joined = join_conditions([null, condition]) if on_accelerator else None

    def pair(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        if joined is not None:
            both = network(torch.cat([x, x]), torch.cat([t, t]), torch.cat([s, s]), joined)
            v_null, v_cond = both.float().chunk(2)
            return v_null, v_cond
        return network(x, t, s, null).float(), network(x, t, s, condition).float()

    def velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        if not guidance.needs_null:
            return network(x, t, s, condition).float()
        if guidance.time == "t":
            v_cond = network(x, t, s, condition).float()
            null_at_t, cond_at_t = pair(x, t, t)
            v_null = v_cond - (cond_at_t - null_at_t)
        else:
            v_null, v_cond = pair(x, t, s)
        return guidance.combine(v_null, v_cond, x, t)

    return velocity


def draw_latents(
    velocity: Velocity,
    x: Tensor,
    num_steps: int,
    num_tokens: int,
    settings: SamplingConfig,
    noise: Noise,
) -> Tensor:
    """Latents (B, ...) from standard normal `x`, by the sampler that the settings of this number of
    steps name; see `selfe.sampler`."""
    sampler = SamplerSettings(
        settings.sampler,
        settings.eta,
        settings.update,
        settings.s_fraction,
        settings.warp,
        settings.base_len,
        settings.shift,
    )
    return draw_samples(velocity, x, num_steps, num_tokens, sampler, noise)


class AnyStepGenerator:
    """Draws images with a denoiser at any number of steps, in batches of fixed size.

    Args:
        network: denoiser, on its device.
        latent_shape: (C, h, w) of one latent.
        settings: sampler, guidance and slots.
        prediction: what the network's V means; settings that do not suit it are refused.
        inference: name of the settings, where they have one (`selfe.config.inference`).
    """

    def __init__(
        self,
        network: nn.Module,
        codec: LatentCodec,
        text: TextEncoder,
        *,
        latent_shape: tuple[int, int, int],
        settings: SamplingConfig,
        facts: GeneratorFacts,
        prediction: Prediction = "posterior",
        inference: str = "",
    ) -> None:
        self.network = network.eval()
        self.codec = codec
        self.text = text
        self.latent_shape = latent_shape
        self.settings = settings
        self.facts = facts
        self.prediction: Prediction = prediction
        self.inference = inference
        self.chunk_size = self._steps.chunk_size
        self.device = next(network.parameters()).device
        self._captions = EncodedCaptions(text)
        self._null = text.encode([""]).trimmed().to(self.device)

    @property
    def _steps(self) -> StepSettings:  # searches change `settings`
        return StepSettings(self.settings, self.facts.label, self.prediction, self.inference)

    def nfe(self, num_steps: int) -> int:
        return self._steps.nfe(num_steps)

    def sampling_at(self, num_steps: int) -> dict[str, object]:
        """See `selfe.generator.TextToImage`; raises ValueError where the steps cannot be drawn."""
        return self._steps.facts_at(num_steps)

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return self.text.count_truncated_by_encoder(prompts)

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """See `selfe.generator.TextToImage.generate`."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
        if num_steps < 1:
            raise ValueError(f"the number of steps must be at least 1, got {num_steps}")
        drawn = 0

        def draw(condition: TextCondition, slots: Sequence[int]) -> list[GeneratedImage]:
            nonlocal drawn
            own = len(set(slots))
            images = self._draw(
                condition,
                [seeds[i] for i in slots],
                num_steps,
                lambda steps: tell_drawn(drawn + own * min(1.0, steps / num_steps)),
            )
            drawn += own
            return images

        return draw_in_batches(self._captions, prompts, self.settings.batch_slots, draw)

    @torch.no_grad()
    def _draw(
        self,
        condition: TextCondition,
        seeds: Sequence[int],
        num_steps: int,
        stepped: Callable[[int], None] = lambda steps: None,
    ) -> list[GeneratedImage]:
        """Images of one batch; `stepped` is told how many steps of it are done."""
        # the position in the stream is the image's own seed, so it draws its own noise
        rng = SampleRng(0, torch.tensor(list(seeds), dtype=torch.int64), self.device)
        x = rng.normal("start", self.latent_shape)

        def noise(k: int) -> Tensor:
            return rng.normal(f"step {k}", self.latent_shape)

        settings = self._steps.at(num_steps)
        null = self._null.expand(len(condition))
        guided = guided_velocity(
            self.network, condition.to(self.device), null, guidance_of(settings)
        )
        evaluated = 0

        def velocity(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            nonlocal evaluated
            value = guided(x, t, s)
            evaluated += 1
            stepped(evaluated)
            return value

        tokens = (self.latent_shape[1] // 2) * (self.latent_shape[2] // 2)
        latents = draw_latents(velocity, x, num_steps, tokens, settings, noise)
        return latents_to_images(self.codec.decode(latents))
