"""What all published models share: they are loaded, seeded, drawn and counted alike.

Every image has its own `torch.Generator` on the CPU, seeded by the image's seed: its noise depends
neither on the batch nor on the device. Network calls are counted, not assumed. Latents or pixels
that are not finite give None, because clamping would turn them into a plausible black or white
picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from baselines.pretrained.card import ModelCard
from selfe.generator import GeneratedImage, GeneratorFacts
from selfe.hub import Source
from selfe.text import first_line

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Origin:
    """Where weights are looked for.

    Attributes:
        local_path: the user's own folder; nothing else is looked at.
        cache_dir: else the hub's cache, None for the usual one, and last the hub.
    """

    local_path: str | None = None
    cache_dir: str | None = None


class PretrainedModel:
    """What all published models share: seeds, counting, facts. Implements `TextToImage`.

    Subclasses find their weights in `open`, draw one batch in `draw`, and say which module is the
    denoiser.

    Args:
        card: static facts.
        source: where the weights came from.
        settings: parsed `--model-arg` values.
        device: "cpu", "cuda", ...
    """

    def __init__(
        self, card: ModelCard, source: Source, settings: Mapping[str, Any], device: str
    ) -> None:
        self.card = card
        self.source = source
        self.settings = dict(settings)
        self.device = torch.device(device)
        self.height = settings["height"] or card.resolution[0]
        self.width = settings["width"] or card.resolution[1]
        self.chunk_size: int = settings["batch_size"]
        self.network_rows = 0

    @classmethod
    def load(
        cls, card: ModelCard, model_args: Mapping[str, Any], device: str, origin: Origin
    ) -> PretrainedModel:
        """The model, its arguments checked before any weight is looked for.

        Args:
            card: static facts.
            model_args: `--model-arg` pairs, as text or already typed.
            device: "cpu", "cuda", ...
            origin: where its weights are.

        Raises:
            ValueError: on bad arguments, or files that are neither here nor to be had.
        """
        settings = card.parse_arguments(model_args)
        if settings["lora"] and not cls.takes_lora:
            raise ValueError(f"{card.name} takes no LoRA adapters: leave lora out")
        cls.check_settings(card, settings, device)
        settings["dtype"] = choose_dtype(settings["dtype"], card.dtype, device)
        return cls.open(card, settings, device, origin)

    @classmethod
    def check_settings(cls, card: ModelCard, settings: Mapping[str, Any], device: str) -> None:
        """Hook: raises ValueError where this family cannot do what was asked."""

    @classmethod
    def open(
        cls, card: ModelCard, settings: dict[str, Any], device: str, origin: Origin
    ) -> PretrainedModel:
        """Finds the weights and loads them, for settings that are checked."""
        raise NotImplementedError

    takes_lora: ClassVar[bool] = False

    facts: GeneratorFacts
    """Set by subclasses once everything is loaded."""

    def draw(
        self, prompts: list[str], num_steps: int, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) in [0, 1] and, per image, whether everything behind it was
        finite (B,).
        """
        raise NotImplementedError

    def nfe(self, num_steps: int) -> int:
        raise NotImplementedError

    def sampling_at(self, num_steps: int) -> Mapping[str, Any]:
        """The same at every number of steps."""
        return self.facts.sampling

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        raise NotImplementedError

    def generate(
        self, prompts: Sequence[str], num_steps: int, seeds: Sequence[int]
    ) -> list[GeneratedImage]:
        """See `TextToImage.generate`. Raises RuntimeError if the network was not called
        `nfe` times.
        """
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, not {len(seeds)}")
        self.check_steps(num_steps)
        if not prompts:
            return []
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self.network_rows = 0
        try:
            with torch.inference_mode():
                pixels, finite = self.draw(list(prompts), num_steps, generators)
        except (ValueError, OSError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # of files whose numbers are of another kind, for example
            raise ValueError(
                f"{self.card.name} from {self.source.folder} cannot draw in {num_steps} steps "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error
        images = to_uint8(pixels, finite)
        self.check_calls(num_steps, len(images))
        return images

    def check_steps(self, num_steps: int) -> None:
        if num_steps < 1:
            raise ValueError(f"steps must be at least 1, not {num_steps}")
        if self.card.max_steps is not None and num_steps > self.card.max_steps:
            raise ValueError(
                f"{self.card.name} draws in at most {self.card.max_steps} steps, not {num_steps}"
            )

    def check_calls(self, num_steps: int, num_images: int) -> None:
        """The recorded NFE must be what happened."""
        expected = self.nfe(num_steps)
        if self.network_rows != expected * num_images:
            raise RuntimeError(
                f"{self.card.name}: the network evaluated {self.network_rows} samples for "
                f"{num_images} images at {num_steps} steps, where {expected} each were expected"
            )

    def count_calls_of(self, network: nn.Module) -> None:
        """Adds the batch size of each call of `network` to `network_rows`."""

        def count(_module: nn.Module, _inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            prediction: Tensor = first if isinstance(first, Tensor) else first.sample
            self.network_rows += prediction.shape[0]

        network.register_forward_hook(count)

    def published_parts(self) -> list[tuple[str, Source]]:
        """The repositories that this model is published as, and what was loaded in their place."""
        return [(self.card.repository, self.source)]

    def other_weights(self) -> str:
        """For `GeneratorFacts.other_weights`."""
        foreign = [
            f"{source.repository or 'a local folder'} in place of {published}"
            for published, source in self.published_parts()
            if source.repository != published
        ]
        return "; ".join(dict.fromkeys(foreign))

    def make_facts(self, parameters: int, sampling: Mapping[str, Any]) -> GeneratorFacts:
        card = self.card
        other_weights = self.other_weights()
        return GeneratorFacts(
            name=card.name,
            label=f"{card.label} (other weights)" if other_weights else card.label,
            method=card.method,
            digest=self.source.digest,
            resolution=(self.height, self.width),
            parameters=parameters,
            other_weights=other_weights,
            sampling={
                "guidance": card.guidance,
                "guidance_scale": self.settings.get("guidance_scale", card.guidance_scale),
                "nfe_rule": card.nfe,
                "published_as": card.repository,
                "repository": self.source.repository,
                "revision": self.source.revision,
                "licence": card.licence,
                "prompt_limits": dict(card.prompt_limits),
                "noise": "one CPU generator per image",
                "batch_size": self.chunk_size,
                "notes": list(card.notes),
                **sampling,
            },
        )


def choose_dtype(wanted: str, published: str, device: str) -> str:
    """`auto` is the published dtype on an accelerator and float32 on the CPU."""
    if wanted != "auto":
        return wanted
    return "float32" if device == "cpu" else published


def finite_rows(x: Tensor) -> Tensor:
    """(B,) bool: whether all of x[i] is finite."""
    return torch.isfinite(x).flatten(1).all(1)


def to_uint8(pixels: Tensor, finite: Tensor) -> list[GeneratedImage]:
    """(B, 3, H, W) in [0, 1] -> (H, W, 3) uint8 each, rounded as diffusers rounds; None if not
    finite.
    """
    pixels = pixels.float().cpu()
    usable = finite.cpu() & finite_rows(pixels)
    images: list[GeneratedImage] = []
    for image, good in zip(pixels, usable.tolist(), strict=True):
        array = (image.permute(1, 2, 0).numpy() * 255).round() if good else None
        images.append(None if array is None else array.clip(0, 255).astype(np.uint8))
    return images
