"""FLUX.1-dev's encoders: its autoencoder, T5-XXL's tokens and CLIP ViT-L/14's pooled vector (S.2).

Files come from the hub's cache, from the hub, or from a folder of the same layout; nothing but the
parts that are used is fetched. Computed in bf16 on accelerators and in fp32 on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfe import hub
from selfe.batch import TextCondition
from selfe.published_weights import load_tokenizer, load_weights, weights_digest

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

REPOSITORY = "black-forest-labs/FLUX.1-dev"
REVISION = "main"
LICENCE = "FLUX.1 [dev] non-commercial"
GATE = f"accept the licence at https://huggingface.co/{REPOSITORY}"
VAE_PARTS = {"vae": "AutoencoderKL"}
TEXT_PARTS = {
    "tokenizer": "CLIPTokenizer",
    "text_encoder": "CLIPTextModel",
    "tokenizer_2": "T5TokenizerFast",
    "text_encoder_2": "T5EncoderModel",
}
CLIP_TOKENS = 77
T5_TOKENS = 256
"""The paper does not state the limit: 256, and up to 512 on request."""
MOST_T5_TOKENS = 512


def find_parts(
    parts: Mapping[str, str],
    *,
    repository: str = REPOSITORY,
    revision: str = REVISION,
    folder: str = "",
    cache_dir: str | None = None,
) -> tuple[hub.Source, str]:
    """Where some folders of a repository in diffusers' layout lie, and the identity of their files.

    Args:
        parts: folder name -> class name.
        folder: a local copy to use instead of the hub.

    Raises:
        ValueError: names repository, missing file, licence gate and the command that fetches it.
    """

    def find_missing(place: Any) -> list[str]:
        return [
            gap for name, kind in parts.items() for gap in hub.component_gaps(place, name, kind)
        ]

    patterns = [f"{name}/*" for name in parts]

    def download(wanted: str) -> None:
        from huggingface_hub import snapshot_download

        snapshot_download(repository, revision=wanted, cache_dir=cache_dir, allow_patterns=patterns)

    if folder:
        source = hub.open_folder(folder, find_missing)
    else:
        ours = repository == REPOSITORY
        source = hub.locate(
            repository,
            revision,
            find_missing=find_missing,
            download=download,
            patterns=patterns,
            cache_dir=cache_dir,
            licence=LICENCE if ours else "",
            gate=GATE if ours else "",
        )
    if source.repository:
        return source, source.digest
    total = hashlib.sha256()
    for name in sorted(parts):  # a whole FLUX folder holds 24 GB more that are not used
        total.update(f"{name}\0{hub.folder_sha256(source.folder / name)}\n".encode())
    return source, f"sha256:{total.hexdigest()}"


def dtype_on(device: str) -> torch.dtype:
    return torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16


class FluxVAE:
    """`LatentCodec`: the posterior mean, shifted and scaled as the autoencoder's config says.

    (B, 3, H, W) in [-1, 1] <-> (B, 16, H / 8, W / 8): z = (mean - shift_factor) scaling_factor.
    H and W are multiples of 8.
    """

    def __init__(self, autoencoder: AutoencoderKL, digest: str) -> None:
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.digest = digest
        config = autoencoder.config
        self.latent_channels: int = config.latent_channels
        self.downsample: int = 2 ** (len(config.block_out_channels) - 1)
        self.scale: float = config.scaling_factor
        self.shift: float = config.shift_factor or 0.0

    def to(self, device: str) -> FluxVAE:
        self.autoencoder.to(device=device, dtype=dtype_on(device))
        return self

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        images = images.to(self.autoencoder.device, self.autoencoder.dtype)
        mean = self.autoencoder.encode(images).latent_dist.mode().float()
        return (mean - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.autoencoder.device, torch.float32) / self.scale + self.shift
        return self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample.float()


class FluxTextEncoder:
    """`TextEncoder`: T5's tokens (B, L, 4096) and CLIP's pooled vector (B, 768).

    Captions are trimmed: L is the longest caption of the batch, padding is masked inside T5 and set
    to zero, so that a caption's features do not depend on the others. FLUX's own pipeline feeds 512
    unmasked tokens instead. "" is T5's end token alone.

    Args:
        clip, t5: transformers' CLIPTextModel and T5EncoderModel.
        clip_tokenizer, t5_tokenizer: theirs.
        max_tokens: T5 tokens kept of a caption, 1 to 512.

    Raises:
        ValueError: for another `max_tokens`.
    """

    def __init__(
        self,
        clip: Any,
        clip_tokenizer: Any,
        t5: Any,
        t5_tokenizer: Any,
        digest: str,
        max_tokens: int = T5_TOKENS,
    ) -> None:
        if not 1 <= max_tokens <= MOST_T5_TOKENS:
            raise ValueError(
                f"T5's token limit must be between 1 and {MOST_T5_TOKENS}, got {max_tokens}"
            )
        self.clip = clip.requires_grad_(False).eval()
        self.t5 = t5.requires_grad_(False).eval()
        self.clip_tokenizer = clip_tokenizer
        self.t5_tokenizer = t5_tokenizer
        self.max_tokens = max_tokens
        self.digest = f"{digest} t5:{max_tokens} clip:{CLIP_TOKENS}"
        self.token_dim: int = t5.config.d_model
        self.pooled_dim: int = clip.config.hidden_size

    def to(self, device: str) -> FluxTextEncoder:
        self.clip.to(device=device, dtype=dtype_on(device))
        self.t5.to(device=device, dtype=dtype_on(device))
        return self

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> TextCondition:
        """Features in the dtype of the encoders.

        Captions longer than `max_tokens` (T5) or 77 tokens (CLIP) lose their end, except for the
        end token: see `count_truncated_by_encoder`.
        """
        ids, mask = self._tokenize(self.t5_tokenizer, captions, self.max_tokens, self.t5.device)
        tokens = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        # padding stands to the right of CLIP's end token, where a causal network does not look
        ids, clip_mask = self._tokenize(
            self.clip_tokenizer, captions, CLIP_TOKENS, self.clip.device
        )
        pooled = self.clip(input_ids=ids, attention_mask=clip_mask).pooler_output
        mask = mask.bool()
        return TextCondition(tokens.masked_fill(~mask[..., None], 0), mask, pooled)

    def count_truncated(self, captions: Sequence[str]) -> int:
        """Captions with more T5 tokens than `max_tokens`: what the token stream loses."""
        return self.count_truncated_by_encoder(captions)["t5"]

    def count_truncated_by_encoder(self, captions: Sequence[str]) -> dict[str, int]:
        """Captions that lose their end, in T5 and in CLIP."""
        counts = {}
        for name, tokenizer, limit in (
            ("t5", self.t5_tokenizer, self.max_tokens),
            ("clip", self.clip_tokenizer, CLIP_TOKENS),
        ):
            ids = tokenizer(list(captions), verbose=False)["input_ids"] if captions else []
            counts[name] = sum(len(row) > limit for row in ids)
        return counts

    @staticmethod
    def _tokenize(
        tokenizer: Any, captions: Sequence[str], limit: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        encoded = tokenizer(
            list(captions),
            max_length=limit,
            truncation=True,
            padding="longest",
            padding_side="right",
            return_tensors="pt",
        )
        return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)


def load_flux_vae(**where: Any) -> FluxVAE:
    """From the hub, or from `folder`; arguments of `find_parts`."""
    source, digest = find_parts(VAE_PARTS, **where)
    from diffusers import AutoencoderKL

    autoencoder = load_weights(AutoencoderKL, source.folder / "vae")
    return FluxVAE(autoencoder, f"{digest} weights {weights_digest(autoencoder)}")


def load_flux_text(max_tokens: int = T5_TOKENS, **where: Any) -> FluxTextEncoder:
    """From the hub, or from `folder`; the other arguments are those of `find_parts`."""
    source, digest = find_parts(TEXT_PARTS, **where)
    from transformers import CLIPTextModel, T5EncoderModel

    # "auto" keeps the stored precision: T5-XXL in fp32 would take 19 GB before it is moved
    clip = load_weights(CLIPTextModel, source.folder / "text_encoder", dtype="auto")
    t5 = load_weights(T5EncoderModel, source.folder / "text_encoder_2", dtype="auto")
    return FluxTextEncoder(
        clip,
        load_tokenizer(source.folder / "tokenizer", model=clip),
        t5,
        load_tokenizer(source.folder / "tokenizer_2", model=t5),
        f"{digest} weights {weights_digest(clip)} {weights_digest(t5)}",
        max_tokens,
    )
