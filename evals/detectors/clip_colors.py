"""Colours of objects by CLIP ViT-L/14 (OpenAI weights), as GenEval names them.

An object is cut out to its box, everything outside its mask turned to grey (#999), and compared
with ten colours in three templates. The weights want QuickGELU; a CLIP built with another
activation loads them without complaint and sees other colours, so the activation is tested first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evals.base import Detection
from evals.detectors.torchscript import read_torchscript_tensors
from evals.detectors.weights import CLIP_VIT_L_14, check_hash, default_cache, place_by_hand
from evals.suites.rules import COLORS

CLIP_MODEL = "ViT-L-14-quickgelu"
TEMPLATES = ("a photo of a {c} {x}", "a photo of a {c}-colored {x}", "a photo of a {c} object")
BACKGROUND = (0x99, 0x99, 0x99)

Tokenizer = Callable[[list[str]], Tensor]


class ClipColorClassifier:
    """`ColorClassifier` over any CLIP of open_clip.

    All objects of all given images go through the image tower together (at most `batch_size` at
    once); the classifier of a class is built when the class is first met, and kept.

    Args:
        model: open_clip's CLIP, fp32.
        tokenizer: texts -> (N, L) token numbers.
        identity: model and weights.
        device: where it runs.
        batch_size: objects per forward pass.
        autocast: compute in half precision where torch's autocast does, as GenEval's own script
            has it (its benchmark library turns autocast on); results then carry another identity.

    Raises:
        ValueError: if an activation of the model is not QuickGELU.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        identity: str,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        autocast: bool = False,
    ) -> None:
        check_activation(model)
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self.tokenizer = tokenizer
        self.identity = f"{identity} fp16 autocast" if autocast else identity
        self.autocast = autocast
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.transform = _transform(self.model)
        self.threads = ThreadPoolExecutor()
        self._classifiers: dict[str, Tensor] = {}

    @classmethod
    def from_published(
        cls, weights: Path | str | None = None, device: str | torch.device = "cpu", **options: Any
    ) -> ClipColorClassifier:
        """With OpenAI's ViT-L-14.pt, from the cache folder or the given file.

        Raises:
            ValueError: if the file is missing (says how to get it), is not the published one by
                its sha256, or does not fit key by key.
        """
        import open_clip

        path = Path(weights) if weights else default_cache() / CLIP_VIT_L_14.name
        if path.is_dir():
            path = path / CLIP_VIT_L_14.name
        if not path.is_file():
            raise ValueError(
                f"no CLIP weights at {path}; run `selfe-bench fetch geneval`, or put the file "
                f"there:\n{place_by_hand([CLIP_VIT_L_14], path.parent)}"
            )
        check_hash(path, CLIP_VIT_L_14)
        state = read_torchscript_tensors(path)
        model = open_clip.create_model(CLIP_MODEL, pretrained=None)
        # What is left over are constants of the traced program ("input_resolution", ...).
        own = model.state_dict().keys()
        try:
            model.load_state_dict({k: v for k, v in state.items() if k in own}, strict=True)
        except RuntimeError as error:
            raise ValueError(
                f"{path} does not fit {CLIP_MODEL}: {' '.join(str(error).split())}"
            ) from error
        identity = f"clip-{CLIP_MODEL}:{CLIP_VIT_L_14.sha256[:8]}"
        return cls(model, open_clip.get_tokenizer(CLIP_MODEL), identity, device, **options)

    @classmethod
    def from_published_autocast(cls, **options: Any) -> ClipColorClassifier:
        """`from_published`, computed in half precision as GenEval's own script does."""
        return cls.from_published(autocast=True, **options)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.float16, enabled=self.autocast)

    @torch.inference_mode()
    def classify(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]]
    ) -> list[list[str]]:
        """A colour name for each given detection of each image."""
        objects = [
            (image, found)
            for image, group in zip(images, detections, strict=True)
            for found in group
        ]
        names: list[str] = []
        for start in range(0, len(objects), self.batch_size):
            names += self._name_batch(objects[start : start + self.batch_size])
        remaining = iter(names)
        return [[next(remaining) for _ in group] for group in detections]

    def _name_batch(self, objects: Sequence[tuple[np.ndarray, Detection]]) -> list[str]:
        pixels = torch.stack(list(self.threads.map(self._pixels, objects))).to(self.device)
        with self._precision():
            features = self.model.encode_image(pixels, normalize=True)
            heads = torch.stack([self.text_classifier(found.label) for _, found in objects])
            similarity = torch.einsum("nd,ncd->nc", features, heads.to(features.dtype))
        return [COLORS[i] for i in similarity.argmax(dim=1).tolist()]

    def _pixels(self, item: tuple[np.ndarray, Detection]) -> Tensor:
        return self.transform(cut_out(*item))

    def text_classifier(self, label: str) -> Tensor:
        """(10, D): a unit vector per colour for objects of one class."""
        if label not in self._classifiers:
            texts = [t.format(c=c, x=label) for c in COLORS for t in TEMPLATES]
            features = self.model.encode_text(self.tokenizer(texts).to(self.device), normalize=True)
            mean = features.unflatten(0, (len(COLORS), len(TEMPLATES))).mean(dim=1)
            self._classifiers[label] = mean / mean.norm(dim=1, keepdim=True)
        return self._classifiers[label]


def cut_out(image: np.ndarray, found: Detection) -> Any:
    """The object's box as a PIL image, grey outside the mask (as it is, where there is no mask).

    Raises:
        ValueError: for an empty box or a mask of another size than the image.
    """
    from PIL import Image

    x1, y1, x2, y2 = (round(v) for v in found.box)
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"{found.label}: the box {found.box} is empty, there is no colour to name")
    part = Image.fromarray(image).crop((x1, y1, x2, y2))
    if found.mask is None:
        return part
    if found.mask.shape != image.shape[:2]:
        raise ValueError(
            f"{found.label}: a mask of {found.mask.shape} does not fit an image of "
            f"{image.shape[:2]}"
        )
    mask = Image.fromarray(found.mask).crop((x1, y1, x2, y2))
    return Image.composite(part, Image.new("RGB", part.size, BACKGROUND), mask)


def _transform(model: Any) -> Callable[[Any], Tensor]:
    """open_clip's own preparation: shorter side resized (bicubic), centre cut, normalised."""
    import open_clip

    size = model.visual.image_size
    return open_clip.image_transform(
        size[0] if isinstance(size, tuple) else size,
        is_train=False,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
    )


def shallow_clip(name: str) -> nn.Module:
    """The named architecture one layer deep and with few words, as open_clip builds it."""
    import open_clip

    config = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"open_clip {open_clip.__version__} does not know {name}; update it")
    return open_clip.CLIP(
        **{
            **config,
            "vision_cfg": {**config["vision_cfg"], "layers": 1},
            "text_cfg": {**config["text_cfg"], "layers": 1, "vocab_size": 64},
        }
    )


def check_activation(model: nn.Module) -> None:
    """Raises ValueError unless every activation of the model computes x * sigmoid(1.702 x)."""
    x = torch.linspace(-4, 4, 65)
    wanted = x * torch.sigmoid(1.702 * x)
    activations = {
        name: module
        for name, module in model.named_modules()
        if "gelu" in type(module).__name__.lower()
    }
    if not activations:
        raise ValueError(
            "this CLIP has no QuickGELU anywhere; GenEval's colours need " + CLIP_MODEL
        )
    for name, module in activations.items():
        gap = float((module(x) - wanted).abs().max())
        if gap > 1e-5:
            raise ValueError(
                f"this CLIP computes {type(module).__name__} at {name}, not QuickGELU (they differ "
                f"by up to {gap:.3f}): OpenAI's weights would name other colours; build it as "
                f"{CLIP_MODEL}"
            )
