"""TiM-T2I (arXiv 2509.04394): the other any-step model of the paper's Table 1.

Not in diffusers; network and sampler are our own. The published code cuts the text to the longest
prompt of the batch, and since padding is attended to, its images depend on their neighbours. Here
each image is drawn with the text cut to its own prompt (`text_length=own`), prompts of equal length
sharing a network call; `text_length=batch` does as published.

A folder given instead of the hub holds t2i_model.bin (or .safetensors), and optionally config.json
(arguments of `TiMTransformer`), vae/, text_encoder/ and tokenizer/; absent parts come from the hub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.pretrained.base import (
    TORCH_DTYPES,
    Origin,
    PretrainedModel,
    finite_rows,
)
from baselines.pretrained.card import ModelCard
from baselines.pretrained.cards import TIM_DC_AE as DC_AE
from baselines.pretrained.cards import TIM_GEMMA as GEMMA
from baselines.pretrained.cards import TIM_GEMMA_GATE as GEMMA_GATE
from baselines.pretrained.tim.network import TiMTransformer, load_published
from baselines.pretrained.tim.sampler import count_evaluations, sample_tim
from baselines.pretrained.tim.text import GemmaFeatures
from selfe.hub import Source, locate_files, open_folder, read_map, vocabulary_gaps, weight_gaps
from selfe.published_weights import load_weights, weights_digest
from selfe.text import first_line

WEIGHTS = "t2i_model.bin"
GEMMA_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
DC_AE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")
TEXT_LENGTHS = ("own", "batch")


@dataclass
class TimParts:
    """Everything TiM is made of, loaded."""

    network: TiMTransformer
    vae: Any
    text: GemmaFeatures
    sources: dict[str, Source]
    projector_tensors: int


class TimModel(PretrainedModel):
    @classmethod
    def check_settings(cls, card: ModelCard, settings: Mapping[str, Any], device: str) -> None:
        if settings["text_length"] not in TEXT_LENGTHS:
            raise ValueError(
                f"text_length must be {' or '.join(TEXT_LENGTHS)}, not {settings['text_length']!r}"
            )
        if settings["offload"] != "none":
            raise ValueError("tim is small enough to stay on the device: offload must be none")

    @classmethod
    def open(
        cls, card: ModelCard, settings: dict[str, Any], device: str, origin: Origin
    ) -> TimModel:
        parts = load_parts(find_sources(card, settings, origin), settings["dtype"])
        return cls(card, parts, settings, device)

    def __init__(
        self, card: ModelCard, parts: TimParts, settings: Mapping[str, Any], device: str
    ) -> None:
        super().__init__(card, parts.sources["network"], settings, device)
        self.sources = parts.sources
        self.weights = {
            "network": weights_digest(parts.network),
            "vae": weights_digest(parts.vae),
            "text_encoder": weights_digest(parts.text.decoder),
        }
        self.network = parts.network.to(device)
        self.vae = parts.vae.to(device)
        self.text = parts.text.to(device)
        self.dtype = TORCH_DTYPES[settings["dtype"]]
        self.factor = int(self.vae.spatial_compression_ratio)
        if self.height % self.factor or self.width % self.factor:
            raise ValueError(f"height and width must be multiples of {self.factor}")
        self.count_calls_of(self.network)
        facts = self.make_facts(
            sum(parameter.numel() for parameter in self.network.parameters()),
            self.sampling_facts(parts),
        )
        digests = [source.digest for source in self.sources.values()]
        self.facts = replace(facts, digest="+".join(dict.fromkeys(digests)))

    def published_parts(self) -> list[tuple[str, Source]]:
        published = {"network": self.card.repository, "vae": DC_AE}
        return [(published.get(name, GEMMA), source) for name, source in self.sources.items()]

    def sampling_facts(self, parts: TimParts) -> dict[str, Any]:
        text_dtype = next(self.text.decoder.parameters()).dtype
        return {
            "scheduler": self.card.scheduler,
            "scheduler_settings": {"times": "even from 1 to 0, rounded to bfloat16"},
            "guidance_interval": "0 < t < 1",
            "dtype": self.settings["dtype"],
            "dtypes": {
                "network": self.settings["dtype"],
                "text_encoder": str(text_dtype).removeprefix("torch."),
                "vae": "float32",
                "state": "float64",
            },
            "text_length": self.settings["text_length"],
            "text_padding_attention": "zero",
            "weights": self.weights,
            "parts": {name: source.digest for name, source in parts.sources.items()},
            "training_only_tensors_left_out": parts.projector_tensors,
        }

    def nfe(self, num_steps: int) -> int:
        """2N - 1 with guidance, N without."""
        self.check_steps(num_steps)
        return count_evaluations(num_steps, self.settings["guidance_scale"])

    def count_truncated(self, prompts: Sequence[str]) -> dict[str, int]:
        return {"gemma": self.text.count_truncated(prompts)}

    def draw(
        self, prompts: list[str], num_steps: int, generators: list[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        shape = (1, self.network.in_channels, self.height // self.factor, self.width // self.factor)
        noise = [torch.randn(shape, generator=generator) for generator in generators]
        latents = torch.cat(noise).to(self.device, self.dtype)
        states, lengths = self.text.encode(prompts)
        null_states, _ = self.text.encode([""])
        drawn = torch.empty_like(latents, dtype=torch.float32)
        for length, rows in group_by_length(lengths, self.settings["text_length"]).items():
            drawn[rows] = sample_tim(
                self.network,
                latents[rows],
                states[rows, :length].to(self.dtype),
                null_states[:, :length].to(self.dtype),
                num_steps,
                self.settings["guidance_scale"],
            ).float()
        return self.decode(drawn)

    def decode(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, h, w) float32 -> pixels and finiteness, one image at a time as published."""
        scaled = latents / self.vae.config.scaling_factor
        decoded = [self.vae.decode(latent[None], return_dict=False)[0] for latent in scaled]
        images = torch.cat(decoded)
        finite = finite_rows(latents) & finite_rows(images)
        # The published conversion: 127.5 x + 128, clamped, then cut (not rounded) to whole numbers.
        return (127.5 * images + 128.0).clamp(0, 255).floor() / 255, finite


def group_by_length(lengths: Sequence[int], text_length: str) -> dict[int, list[int]]:
    """Text length -> rows drawn with it: each prompt's own, or the longest of the batch for all."""
    if text_length == "batch":
        return {max(lengths): list(range(len(lengths)))}
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length, []).append(row)
    return groups


def find_sources(card: ModelCard, settings: Mapping[str, Any], origin: Origin) -> dict[str, Source]:
    """Where network, VAE, text encoder and tokenizer lie."""
    folder = Path(origin.local_path) if origin.local_path is not None else None
    sources: dict[str, Source] = {}
    if folder is not None:
        sources["network"] = open_folder(folder, network_gaps)
    else:
        sources["network"] = locate_files(
            card.repository,
            [WEIGHTS],
            revision=settings["revision"],
            cache_dir=origin.cache_dir,
            licence=card.licence,
        )
    if folder is not None and (folder / "vae").is_dir():
        sources["vae"] = open_folder(folder / "vae", lambda part: weight_gaps(part, "vae"))
    else:
        sources["vae"] = locate_files(
            DC_AE, DC_AE_FILES, revision=settings["vae_revision"], cache_dir=origin.cache_dir
        )
    if folder is not None and (folder / "text_encoder").is_dir():
        sources["text_encoder"] = open_folder(
            folder / "text_encoder", lambda part: weight_gaps(part, "text_encoder")
        )
        sources["tokenizer"] = open_folder(
            folder / "tokenizer",
            lambda part: vocabulary_gaps(part, "tokenizer"),
        )
    else:
        gemma = locate_files(
            GEMMA,
            GEMMA_FILES,
            revision=settings["text_revision"],
            cache_dir=origin.cache_dir,
            licence="Gemma terms of use",
            gate=GEMMA_GATE,
        )
        sources["text_encoder"] = sources["tokenizer"] = gemma
    return sources


def network_gaps(folder: Path) -> list[str]:
    names = (WEIGHTS, "t2i_model.safetensors")
    return [] if any((folder / name).is_file() for name in names) else [WEIGHTS]


def load_parts(sources: Mapping[str, Source], dtype: str) -> TimParts:
    from diffusers import AutoencoderDC

    folder = sources["network"].folder
    config_file = folder / "config.json"
    values = read_map(config_file) if config_file.is_file() else {}
    try:
        with torch.device("meta"):
            network = TiMTransformer(**values)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(
            f"{config_file} is damaged ({first_line(error)}): fetch it again"
        ) from None
    projector_tensors = load_published(network, read_state(folder))
    vae = load_weights(AutoencoderDC, sources["vae"].folder)
    text = GemmaFeatures.load(
        sources["text_encoder"].folder, sources["tokenizer"].folder, TORCH_DTYPES[dtype]
    )
    return TimParts(
        network=network.to(TORCH_DTYPES[dtype]).eval().requires_grad_(False),
        vae=vae.float().eval().requires_grad_(False),
        text=text,
        sources=dict(sources),
        projector_tensors=projector_tensors,
    )


def read_state(folder: Path) -> dict[str, Tensor]:
    """The state dict, without running any code from the file."""
    safe = folder / "t2i_model.safetensors"
    if safe.is_file():
        from safetensors.torch import load_file

        try:
            return load_file(safe)
        except Exception as error:  # safetensors has an error of its own
            raise ValueError(f"{safe} cannot be read ({first_line(error)})") from None
    try:
        state = torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True)
    except Exception as error:  # of a zip file, of a pickle, of what it must not hold
        raise ValueError(f"{folder / WEIGHTS} cannot be read ({first_line(error)})") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{folder / WEIGHTS} does not hold a plain state dict of tensors")
    return state
