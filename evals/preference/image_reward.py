"""ImageReward (arXiv 2304.05977): BLIP reads the prompt while it looks at the image.

The network is transformers' BLIP; the published keys are renamed to its own. The reward is a linear
chain on the first token, standardised by the published mean and deviation.

Where the facts come from: preparation, 35 tokens, the head, mean and deviation are in
ImageReward/ImageReward.py of THUDM/ImageReward (commit 0f5fa3e), the networks' sizes and keys in
train/src/models/blip.py and blip_pretrain.py there (1beb4e4), the epsilon of the image encoder in
models/vit.py of salesforce/BLIP (7856669). The text encoder's settings are read from
med_config.json beside the weights, which was not at hand: those here are of BLIP's file of that
name, in a public copy (Duy-Nguyen-Duc/BLIP_MMM_2023, 3192bf3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evals.distribution.features import CLIP_MEAN, CLIP_STD
from evals.measure import MeasureOptions
from evals.preference.base import PreferenceMeasure
from evals.pretrained import (
    BERT_BASE,
    BERT_FILES,
    IMAGE_REWARD,
    IMAGE_REWARD_FILE,
    find_file,
    pinned,
)
from selfe.hub import locate_files
from selfe.published_weights import load_tokenizer

TOKENS = 35
MEAN, DEVIATION = 0.16717362830052426, 1.0333394966054072
HEAD_WIDTHS = (1024, 128, 64, 16, 1)
_VISION = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^norm\.", "post_layernorm."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.norm([12])\.", r".layer_norm\1."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.attn\.", ".self_attn."),
)
_NOT_USED = (
    "blip.vision_proj.",
    "blip.text_proj.",
    "blip.itm_head.",
    "blip.temp",
    "blip.text_decoder.",
)
_COUNTERS = ("blip.text_encoder.embeddings.position_ids",)


class RewardNetwork(nn.Module):
    """BLIP's image encoder, its text encoder with cross-attention, and the head.

    Args:
        vision, text: settings of transformers' BlipVisionConfig and BlipTextConfig.
    """

    def __init__(self, vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
        from transformers import BlipTextConfig, BlipVisionConfig
        from transformers.models.blip.modeling_blip import BlipVisionModel
        from transformers.models.blip.modeling_blip_text import BlipTextModel

        super().__init__()
        self.vision = BlipVisionModel(BlipVisionConfig(**vision))
        config = BlipTextConfig(**text, is_decoder=True)
        self.text = BlipTextModel(config, add_pooling_layer=False)
        widths = (config.hidden_size, *HEAD_WIDTHS)
        self.head = nn.ModuleList(
            nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )

    def forward(self, pixels: Tensor, tokens: Tensor, attention: Tensor) -> Tensor:
        """(n, 3, side, side), (n, 35) and (n, 35) -> rewards (n,)."""
        seen = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=tokens,
            attention_mask=attention,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(
                seen.shape[:-1], dtype=torch.long, device=seen.device
            ),
            is_decoder=False,  # every word sees every other
        ).last_hidden_state[:, 0]
        for layer in self.head:
            read = layer(read)
        return (read[:, 0].float() - MEAN) / DEVIATION


def large_network() -> RewardNetwork:
    """The published sizes: ViT-L/16 at 224 pixels, BERT base with cross-attention."""
    return RewardNetwork(
        {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
        },
        {
            "vocab_size": 30524,
            "hidden_size": 768,
            "encoder_hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 512,
        },
    )


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published keys as `RewardNetwork` calls them; what it has no part for keeps its name."""
    found: dict[str, Tensor] = {}
    heads = sorted({int(k.split(".")[2]) for k in state if k.startswith("mlp.layers.")})
    for key, value in state.items():
        if key.startswith((*_NOT_USED, *_COUNTERS)):
            continue
        if key.startswith("blip.visual_encoder."):
            name = key.removeprefix("blip.visual_encoder.")
            for pattern, replacement in _VISION:
                name = re.sub(pattern, replacement, name)
            found[f"vision.{name}"] = value
        elif key.startswith("blip.text_encoder."):
            found["text." + key.removeprefix("blip.text_encoder.")] = value
        elif key.startswith("mlp.layers."):
            place, kind = key.split(".")[2:]
            found[f"head.{heads.index(int(place))}.{kind}"] = value
        else:
            found[key] = value
    return found


def load_reward(network: RewardNetwork, path: Path) -> RewardNetwork:
    """Raises ValueError if the file holds anything but tensors, or keys do not fit."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(renamed(state), strict=True)
    except RuntimeError as error:
        message = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} does not fit ImageReward: {message}") from None
    except Exception as error:
        raise ValueError(f"{path} is not a file of weights ({type(error).__name__})") from error
    return network


class ImageReward:
    """`PreferenceModel` over `RewardNetwork`."""

    name = "imagereward"

    def __init__(
        self,
        network: RewardNetwork,
        tokenizer: Any,
        identity: str,
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        from torchvision import transforms

        self.notes = tuple(notes)
        self.network = network.eval().requires_grad_(False).to(device)
        self.tokenizer, self.identity, self.device = tokenizer, identity, device
        side = network.vision.config.image_size
        self.prepare = transforms.Compose(
            [
                transforms.Resize(side, interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(side),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )
        self.settings: Mapping[str, Any] = {
            "score": "standardised reward",
            "tokens": TOKENS,
            "dtype": "float32",
            "resize": f"shorter side to {side} pixels, Pillow bicubic, centre cut",
        }

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
        pixels = torch.stack([self.prepare(Image.fromarray(image)) for image in images])
        read = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        )
        rewards: list[float] = self.network(
            pixels.to(self.device),
            read.input_ids.to(self.device),
            read.attention_mask.to(self.device),
        ).tolist()
        return rewards


def image_reward(options: MeasureOptions) -> PreferenceMeasure:
    """ImageReward with the published weights."""
    from transformers import BertTokenizer

    given = options.weights.get("imagereward", "")
    path, digest, notes = find_file(given, IMAGE_REWARD, IMAGE_REWARD_FILE, "Apache-2.0")
    words = options.weights.get("imagereward-tokenizer")
    folder = (
        Path(words)
        if words
        else locate_files(
            BERT_BASE,
            BERT_FILES,
            revision=pinned(BERT_BASE),
            cache_dir=None,
            licence="Apache-2.0",
        ).folder
    )
    model = ImageReward(
        load_reward(large_network(), path),
        load_tokenizer(folder, BertTokenizer),
        f"imagereward:{digest}",
        options.device,
        notes,
    )
    return PreferenceMeasure(model, options)
