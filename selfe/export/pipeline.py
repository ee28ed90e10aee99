"""A trained model as a diffusers pipeline; `selfe.export.save` ships its code with the weights.

Images are those of `selfe.generation.any_step`, bit for bit on the CPU: work is done in the same
batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
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
        negative_prompt: str | Sequence[str] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        seed: int | None = None,
        num_images_per_prompt: int = 1,
        guidance: str | None = None,
        guidance_scale: float | None = None,
        batch_slots: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict[str, Tensor]], Any] | None = None,
    ) -> Any:
        """Draw images; each follows from weights, prompt, its number, steps and seed.

        Args:
            prompt: one or several captions.
            num_inference_steps: any number from 1.
            negative_prompt: what guidance leads away from, one for all or one per prompt; None for
                the empty prompt, which the model was trained with.
            generator: one for all images, or one per image. Every image takes one number from it as
                its seed.
            seed: of all images of the call, 0 if neither it nor a generator is given.
            num_images_per_prompt: at least 1; images of one prompt follow each other.
            guidance: "none", "linear", "ep-v" or "ep-x0"; None for the model's own.
            guidance_scale: omega; None for the model's own.
            batch_slots: images worked on at once; where fewer are drawn, the batch is filled with
                copies. None for as many as are drawn, at most `config.batch_slots`. With
                `config.batch_slots` itself images equal those of the model's evaluation bit for bit
                whatever else is drawn beside them; otherwise they may differ by rounding.
            output_type: "pil"; "np" for float32 (N, H, W, 3) in [0, 1]; "pt" for a float32 tensor
                (N, 3, H, W) in [0, 1]; "latent" for what the decoder would be given.
            callback_on_step_end: called as f(pipeline, step, t, {"latents": x}) after each step of
                each batch; latents in the dictionary that it returns replace x.

        Returns:
            `ImagePipelineOutput` with `images`, or a tuple. In place of an image that is not finite
            there is None, or NaN in an array.

        Raises:
            ValueError: for fewer than one step, image or slot, an unknown output type, a seed
                beside a generator, or lists of other lengths.
        """
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be pil, np, pt or latent, got {output_type!r}")
        if num_images_per_prompt < 1:
            raise ValueError(
                f"num_images_per_prompt must be at least 1, got {num_images_per_prompt}"
            )
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        jobs = [(text, n) for text in prompts for n in range(num_images_per_prompt)]
        slots = min(self.config.batch_slots, max(1, len(jobs)))
        if batch_slots is not None:
            slots = batch_slots
        if slots < 1:
            raise ValueError(f"batch_slots must be at least 1, got {slots}")
        negatives = self._one_per_prompt(negative_prompt, len(prompts), num_images_per_prompt)
        own = self.guidance_at(num_inference_steps)
        chosen = Guidance(
            guidance if guidance is not None else own.kind,  # type: ignore[arg-type]
            guidance_scale if guidance_scale is not None else own.scale,
            own.time,
        )
        drawn = self._draw_all(
            [text for text, _ in jobs],
            negatives,
            self._seeds(jobs, generator, seed),
            num_inference_steps,
            chosen,
            list if output_type == "latent" else self._to_images,
            callback_on_step_end,
            slots,
        )
        images = self._as_output(drawn, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @staticmethod
    def _one_per_prompt(
        given: str | Sequence[str] | None, prompts: int, images_per_prompt: int
    ) -> list[str]:
        """Negative prompts, one per image."""
        if given is None or isinstance(given, str):
            return [given or ""] * (prompts * images_per_prompt)
        if len(given) != prompts:
            raise ValueError(f"{prompts} prompts but {len(given)} negative prompts")
        return [text for text in given for _ in range(images_per_prompt)]

    @staticmethod
    def _seeds(
        jobs: Sequence[tuple[str, int]],
        generator: torch.Generator | Sequence[torch.Generator] | None,
        seed: int | None,
    ) -> list[int]:
        """One 63-bit seed per image."""
        if generator is None:
            return [derive_seed(seed or 0, text, n) for text, n in jobs]
        if seed is not None:
            raise ValueError("give either a seed or a generator, not both")
        if isinstance(generator, torch.Generator):
            sources = [generator] * len(jobs)
        else:
            sources = list(generator)
        if len(sources) != len(jobs):
            raise ValueError(f"{len(jobs)} images but {len(sources)} generators")
        return [
            int(torch.randint(2**63 - 1, (), generator=source, device=source.device))
            for source in sources
        ]

    def _as_output(self, images: list[Any], output_type: str) -> Any:
        if output_type == "latent":
            return torch.stack(images)
        if output_type == "pil":
            return [None if image is None else Image.fromarray(image) for image in images]
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        side = (self.config.latent_height * factor, self.config.latent_width * factor, 3)
        missing = np.full(side, np.nan, np.float32)
        floats = [missing if i is None else i.astype(np.float32) / 255 for i in images]
        array = np.stack(floats)
        return array if output_type == "np" else torch.from_numpy(array).permute(0, 3, 1, 2)

    def _draw_all(
        self,
        prompts: list[str],
        negatives: list[str],
        seeds: list[int],
        num_steps: int,
        guidance: Guidance,
        finish: Callable[[Tensor], list[Any]],
        callback: Callable[[Any, int, Tensor, dict[str, Tensor]], Any] | None,
        num_slots: int,
    ) -> list[Any]:
        def told(step: int, t: Tensor, x: Tensor) -> Tensor:
            bar.update()
            given = callback(self, step, t, {"latents": x}) if callback else None
            return given.get("latents", x) if given else x

        text = self._build_text_encoder()
        device = self.denoiser.device
        nulls: dict[str, TextCondition] = {}
        captions = EncodedCaptions(text)
        num_batches = len(fill_slots(captions.lengths(prompts), num_slots))
        with self.progress_bar(total=num_batches * num_steps) as bar:

            def draw(condition: TextCondition, slots: Sequence[int]) -> list[Any]:
                avoided = [negatives[i] for i in slots]
                if len({*avoided}) == 1:
                    if avoided[0] not in nulls:
                        nulls[avoided[0]] = text.encode(avoided[:1]).trimmed().to(device)
                    null = nulls[avoided[0]].expand(len(avoided))
                else:
                    null = captions.batch(avoided, max(captions.lengths(avoided))).to(device)
                batch_seeds = [seeds[i] for i in slots]
                return finish(self._draw(condition, null, batch_seeds, num_steps, guidance, told))

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
        told: Callable[[int, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """One batch, from its starting noise to latents."""
        device = self.denoiser.device
        config = self.config
        shape = (config.latent_channels, config.latent_height, config.latent_width)
        rng = SampleRng(0, torch.tensor(list(seeds), dtype=torch.int64), device)
        x = rng.normal("start", shape)
        velocity = guided_velocity(self.denoiser, condition.to(device), null, guidance)

        self.scheduler.set_timesteps(
            num_steps, device, num_tokens=(shape[1] // 2) * (shape[2] // 2)
        )
        times = zip(self.scheduler.timesteps, self.scheduler.secondary_timesteps, strict=True)
        for k, (t, s) in enumerate(times):
            v = velocity(x, t.expand(len(x)), s.expand(len(x)))
            x = self.scheduler.step(v, t, x, lambda k=k: rng.normal(f"step {k}", shape))
            x = told(k, t, x)
        return x

    def _to_images(self, latents: Tensor) -> list[Any]:
        return latents_to_images(self._decode(latents))

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
