"""A trained model as a diffusers pipeline; `selfe.export.save` ships its code with the weights.

Images are those of `selfe.generation.any_step`, bit for bit on the CPU: work is done in the same
batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    ImagePipelineOutput,
    ModelMixin,
    SchedulerMixin,
)
from PIL import Image
from torch import Tensor

from selfe.batch import TextCondition
from selfe.encoders.flux import FluxTextEncoder
from selfe.encoders.shapes import ShapesTextEncoder
from selfe.generation.any_step import guided_velocity, latents_to_images
from selfe.generation.captions import EncodedCaptions
from selfe.generation.fixed_batches import draw_in_batches, fill_slots
from selfe.guidance import Guidance
from selfe.seeding import SampleRng, derive_seed


class SelfEPipeline(DiffusionPipeline):
    """Text to image in any number of steps.

    Args:
        denoiser: V(x_t, t, s, c).
        vae: its config holds either latents_mean and latents_std, or scaling and shift factor.
        scheduler: `AnyStepScheduler`.
        text_encoder, tokenizer, text_encoder_2, tokenizer_2: CLIP and T5; None where `text` is
            "shapes", whose encoder has no weights.
        text: "flux" or "shapes".
        max_tokens: T5 tokens kept of a caption.
        latent_channels, latent_height, latent_width: of the images the model was trained on.
        batch_slots: fixed batch of the sampler, padded by repetition.
        guidance_by_steps: {"1": {"kind": ..., "scale": ..., "time": ...}}, keyed like the
            scheduler's settings.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->denoiser->vae"
    _optional_components = ["text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"]

    def __init__(
        self,
        denoiser: ModelMixin,
        vae: AutoencoderKL,
        scheduler: SchedulerMixin,
        text_encoder: Any = None,
        tokenizer: Any = None,
        text_encoder_2: Any = None,
        tokenizer_2: Any = None,
        text: str = "flux",
        max_tokens: int = 256,
        latent_channels: int = 16,
        latent_height: int = 32,
        latent_width: int = 32,
        batch_slots: int = 16,
        guidance_by_steps: dict[str, dict[str, Any]] | None = None,
    ):
        super().__init__()
        self.register_modules(
            denoiser=denoiser,
            vae=vae,
            scheduler=scheduler,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            text_encoder_2=text_encoder_2,
            tokenizer_2=tokenizer_2,
        )
        self.register_to_config(
            text=text,
            max_tokens=max_tokens,
            latent_channels=latent_channels,
            latent_height=latent_height,
            latent_width=latent_width,
            batch_slots=batch_slots,
            guidance_by_steps=guidance_by_steps or {},
        )

    def guidance_at(self, num_inference_steps: int) -> Guidance:
        """The guidance the model was found to want at this number of steps."""
        table = self.config.guidance_by_steps
        applicable = [int(key) for key in table if int(key) <= num_inference_steps]
        return Guidance(**table[str(max(applicable))]) if applicable else Guidance()

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 4,
        *,
        seed: int = 0,
        num_images_per_prompt: int = 1,
        guidance: str | None = None,
        guidance_scale: float | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Draw images; each is a function of weights, prompt, its number, steps and seed.

        Args:
            prompt: one or several captions.
            num_inference_steps: any number from 1.
            seed: of all images of the call.
            guidance: "none", "linear", "ep-v" or "ep-x0"; None for the model's own.
            guidance_scale: omega; None for the model's own.
            output_type: "pil", or "np" for (H, W, 3) uint8 arrays.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple; None in place of an image that is not
            finite.

        Raises:
            ValueError: for fewer than one step, or an unknown output type.
        """
        if output_type not in ("pil", "np"):
            raise ValueError(f"output_type must be pil or np, got {output_type!r}")
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        jobs = [(text, n) for text in prompts for n in range(num_images_per_prompt)]
        own = self.guidance_at(num_inference_steps)
        chosen = Guidance(
            guidance if guidance is not None else own.kind,  # type: ignore[arg-type]
            guidance_scale if guidance_scale is not None else own.scale,
            own.time,
        )
        images = self._draw_all(
            [text for text, _ in jobs],
            [derive_seed(seed, text, n) for text, n in jobs],
            num_inference_steps,
            chosen,
        )
        if output_type == "pil":
            images = [None if image is None else Image.fromarray(image) for image in images]
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _draw_all(
        self, prompts: list[str], seeds: list[int], num_steps: int, guidance: Guidance
    ) -> list[Any]:
        text = self._build_text_encoder()
        null = text.encode([""]).trimmed().to(self.denoiser.device)
        captions = EncodedCaptions(text)
        num_slots = self.config.batch_slots
        num_batches = len(fill_slots(captions.lengths(prompts), num_slots))
        with self.progress_bar(total=num_batches * num_steps) as bar:

            def draw(condition: TextCondition, slots: Sequence[int]) -> list[Any]:
                batch_seeds = [seeds[i] for i in slots]
                return self._draw(condition, null, batch_seeds, num_steps, guidance, bar.update)

            return draw_in_batches(captions, prompts, num_slots, draw)

    def _build_text_encoder(self) -> Any:
        if self.config.text == "shapes":
            return ShapesTextEncoder()
        return FluxTextEncoder(
            self.text_encoder,
            self.tokenizer,
            self.text_encoder_2,
            self.tokenizer_2,
            "",
            self.config.max_tokens,
        )

    def _draw(
        self,
        condition: TextCondition,
        null: TextCondition,
        seeds: Sequence[int],
        num_steps: int,
        guidance: Guidance,
        tick: Callable[[], Any],
    ) -> list[Any]:
        """One batch, from its starting noise to uint8 images."""
        device = self.denoiser.device
        config = self.config
        shape = (config.latent_channels, config.latent_height, config.latent_width)
        rng = SampleRng(0, torch.tensor(list(seeds), dtype=torch.int64), device)
        x = rng.normal("start", shape)
        null = null.expand(len(condition))
        velocity = guided_velocity(self.denoiser, condition.to(device), null, guidance)

        self.scheduler.set_timesteps(
            num_steps, device, num_tokens=(shape[1] // 2) * (shape[2] // 2)
        )
        times = zip(self.scheduler.timesteps, self.scheduler.secondary_timesteps, strict=True)
        for k, (t, s) in enumerate(times):
            v = velocity(x, t.expand(len(x)), s.expand(len(x)))
            x = self.scheduler.step(v, t, x, lambda k=k: rng.normal(f"step {k}", shape))
            tick()
        return latents_to_images(self._decode(x))

    def _decode(self, latents: Tensor) -> Tensor:
        config = self.vae.config
        if config.latents_mean is not None:
            shape = (1, -1, 1, 1)
            mean = torch.tensor(config.latents_mean, device=latents.device).view(shape)
            std = torch.tensor(config.latents_std, device=latents.device).view(shape)
            z = latents * std + mean
        else:
            z = latents / config.scaling_factor + (config.shift_factor or 0.0)
        return self.vae.decode(z.to(self.vae.dtype)).sample.float()
