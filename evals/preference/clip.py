"""PickScore, CLIPScore and HPSv2.1: cosines of image and prompt under three CLIPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from evals.distribution.features import POSITION_IDS
from evals.measure import MeasureOptions
from evals.preference.base import PreferenceMeasure
from evals.pretrained import (
    CLIP_B_32,
    CLIP_H_14,
    HPS,
    HPS_FILE,
    PICKSCORE,
    find_file,
    find_network,
    load_network,
    not_pinned,
)
from selfe.published_weights import load_processor

HPS_MODEL = "ViT-H-14"
TOKENS = 77
DEPICTS = "A photo depicts "
"""What CLIPScore's authors put before a caption."""


class TransformersClip:
    """`PreferenceModel` over transformers' CLIP: a function of the cosine.

    Args:
        model: transformers' CLIPModel.
        processor: tokenizer and image preparation, as published with the score.
        transform: of the cosines (n,), given the model's temperature exp(logit_scale).
        prefix: put before every prompt.
        notes: what readers of the scores must know.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        model: Any,
        processor: Any,
        transform: Callable[[Tensor, Tensor], Tensor],
        formula: str,
        prefix: str = "",
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.identity, self.notes = name, identity, tuple(notes)
        self.model, self.processor, self.device = model.to(device), processor, device
        self.transform, self.prefix = transform, prefix
        self.settings: Mapping[str, Any] = {
            "score": formula,
            "prefix": prefix,
            "tokens": TOKENS,
            "dtype": str(model.dtype).removeprefix("torch."),
            "resize": _in_words(processor.image_processor),
        }

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
        pixels = self.processor(
            images=[Image.fromarray(image) for image in images], return_tensors="pt"
        ).to(self.device)
        tokens = self.processor(
            text=[self.prefix + prompt for prompt in prompts],
            padding=True,
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).to(self.device)
        seen = _unit(self.model.get_image_features(**pixels).pooler_output)
        read = _unit(self.model.get_text_features(**tokens).pooler_output)
        cosine = (seen * read).sum(dim=1)
        scores: list[float] = self.transform(cosine, self.model.logit_scale.exp()).tolist()
        return scores


def _unit(x: Tensor) -> Tensor:
    return (x / x.norm(dim=-1, keepdim=True)).float()


def _in_words(prepare: Any) -> str:
    """What an image preparation of transformers does to the size of an image."""
    filtered = Image.Resampling(prepare.resample).name.lower()
    by = "Pillow" if type(prepare).__name__.endswith("Pil") else "torchvision"
    return f"shorter side to {prepare.size['shortest_edge']} pixels, {by} {filtered}, centre cut"


def pickscore(options: MeasureOptions) -> PreferenceMeasure:
    """PickScore (arXiv 2305.01569): temperature times cosine, CLIP ViT-H/14 tuned on Pick-a-Pic.

    Weights, processor, formula and 77 tokens are those of the example in README.md of
    yuvalkirstain/PickScore (commit 013b54d), where transformers 4.27 prepares images by Pillow.
    """
    from transformers import CLIPModel

    place = options.weights.get("pickscore", PICKSCORE)
    own = options.weights.get("pickscore-processor") or (place if Path(place).is_dir() else "")
    source, prepared = find_network(place), find_network(own or CLIP_H_14, weights=False)
    model = TransformersClip(
        "pickscore",
        f"pickscore:{source.digest}",
        load_network(CLIPModel, source, unused=POSITION_IDS),
        load_processor(prepared.folder, backend="pil"),
        lambda cosine, temperature: temperature * cosine,
        "exp(logit_scale) x cosine",
        device=options.device,
        notes=not_pinned(place, source) + not_pinned(own or CLIP_H_14, prepared),
    )
    return PreferenceMeasure(model, options)


def clipscore(options: MeasureOptions) -> PreferenceMeasure:
    """CLIPScore (arXiv 2104.08718): 2.5 times the cosine, not below 0, CLIP ViT-B/32.

    Formula, prefix and preparation are those of clipscore.py of jmhessel/clipscore (commit
    459f821). That script runs in half precision on a GPU and in float32 without; here it is float32
    on both.
    """
    from transformers import CLIPModel

    place = options.weights.get("clipscore", CLIP_B_32)
    source = find_network(place)
    model = TransformersClip(
        "clipscore",
        f"clipscore:{source.digest}",
        load_network(CLIPModel, source, unused=POSITION_IDS),
        load_processor(source.folder, backend="pil"),
        lambda cosine, temperature: 2.5 * cosine.clamp(min=0),
        "2.5 x cosine, not below 0",
        DEPICTS,
        options.device,
        not_pinned(place, source),
    )
    return PreferenceMeasure(model, options)


class FitAndPad:
    """HPSv2's own preparation: nothing of an image that is not square is cut off.

    Its script leaves antialiasing to torchvision, which for tensors had it off before 0.17 and has
    it on since; here it is on.

    Args:
        side: of the square that an image becomes.
    """

    def __init__(self, side: int, mean: Sequence[float], std: Sequence[float]) -> None:
        self.side, self.mean, self.std = side, list(mean), list(std)

    def __call__(self, image: Image.Image) -> Tensor:
        """(3, side, side), normalised."""
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms import functional as vision

        pixels = vision.to_tensor(image)
        scale = self.side / max(pixels.shape[1:])
        height, width = (round(edge * scale) for edge in pixels.shape[1:])
        if scale != 1:
            pixels = vision.resize(
                pixels, [height, width], InterpolationMode.BICUBIC, antialias=True
            )
        left, top = (self.side - width) // 2, (self.side - height) // 2
        padding = [left, top, self.side - width - left, self.side - height - top]
        return vision.normalize(vision.pad(pixels, padding), self.mean, self.std)


class OpenClip:
    """`PreferenceModel` over open_clip's CLIP: the cosine.

    Args:
        model: open_clip's CLIP.
        tokenizer: texts -> (n, tokens).
        prepare: a Pillow image -> (3, side, side).
        notes: what readers of the scores must know.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        prepare: Callable[[Image.Image], Tensor],
        device: str = "cpu",
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.identity, self.device, self.notes = name, identity, device, tuple(notes)
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.tokenizer, self.prepare = tokenizer, prepare
        self.settings: Mapping[str, Any] = {
            "score": "cosine",
            "tokens": TOKENS,
            "dtype": "float32",
            "resize": "longer side, bicubic, antialiased, in floating point; padded with black",
        }

    @torch.inference_mode()
    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> list[float]:
        pixels = torch.stack([self.prepare(Image.fromarray(image)) for image in images])
        seen = self.model.encode_image(pixels.to(self.device), normalize=True)
        read = self.model.encode_text(self.tokenizer(list(prompts)).to(self.device), normalize=True)
        scores: list[float] = (seen * read).sum(dim=1).tolist()
        return scores


def load_open_clip(model: nn.Module, path: Path) -> nn.Module:
    """Weights from a checkpoint {"state_dict": ...}, key by key.

    Raises:
        ValueError: if the file holds anything but tensors, or a key is missing or unknown.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a file of weights ({type(error).__name__})") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    state = {key.removeprefix("module."): value for key, value in state.items()}
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit {type(model).__name__}: {' '.join(str(error).split())[:300]}"
        ) from None
    return model


def hpsv2(options: MeasureOptions) -> PreferenceMeasure:
    """HPSv2.1 (arXiv 2306.09341): the cosine of CLIP ViT-H/14 tuned on human preferences.

    The file and the cosine are those of hpsv2/img_score.py and utils.py of tgxs002/HPSv2 (commits
    708ffb3, 1d34ebf). That script reads images and prompts in half precision on a GPU; here it is
    float32.
    """
    import open_clip

    path, digest, notes = find_file(options.weights.get("hpsv2.1", ""), HPS, HPS_FILE, "Apache-2.0")
    network = load_open_clip(open_clip.create_model(HPS_MODEL, pretrained=None), path)
    side = network.visual.image_size  # type: ignore[union-attr]
    prepare = FitAndPad(
        side[0] if isinstance(side, tuple) else side,  # type: ignore[arg-type]
        open_clip.OPENAI_DATASET_MEAN,
        open_clip.OPENAI_DATASET_STD,
    )
    model = OpenClip(
        "hpsv2.1",
        f"hpsv2.1:{digest}",
        network,
        open_clip.get_tokenizer(HPS_MODEL),
        prepare,
        options.device,
        notes,
    )
    return PreferenceMeasure(model, options)
