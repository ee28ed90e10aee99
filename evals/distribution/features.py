"""Features of images, between which distances are measured.

Preparation changes the figures as much as the network does, so each extractor states how it cuts,
resizes and rounds; all of that is recorded.
"""

from __future__ import annotations

import base64
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evals.images import FoundImage
from evals.measure import DrawnImages, MeasureOptions, Progress
from evals.measurements import MEASURES
from evals.pretrained import CLIP_L_336, DINOV2_BASE, find_network, load_network, not_pinned
from evals.scoring.stored_rows import StoredRows
from selfe.published_weights import weights_digest
from selfe.text import first_line

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OTHER_PARTS = ("text_model.", "text_projection", "logit_scale")
POSITION_IDS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
"""Counters that older files hold beside the weights."""
INSTALL_FIDELITY = "pip install 'selfe-bench[fidelity]'"
INSTALL_DREAMSIM = "pip install 'selfe-bench[dreamsim]'"


class FeatureExtractor(Protocol):
    """`identity` names network and weights, `settings` how images are prepared. An extractor may
    have `notes`: sentences for readers of what is measured with it."""

    name: str
    identity: str
    settings: Mapping[str, Any]

    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, dimensions) float32 of (H, W, 3) uint8 images of one size."""
        ...


def centre_square(image: np.ndarray, side: int) -> np.ndarray:
    """The largest square in the middle, resized by Pillow's bicubic filter (which averages when it
    shrinks) and rounded to uint8: (side, side, 3). CMMD's own cmmd/io_util.py does the same
    (google-research/google-research, commit 1963839)."""
    height, width = image.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(image[top : top + edge, left : left + edge])
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))


def normalised(images: Sequence[np.ndarray], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(n, 3, H, W) float32 from uint8 images of one size."""
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def unit(x: Tensor) -> np.ndarray:
    """Rows of length 1, float32."""
    return (x / x.norm(dim=1, keepdim=True)).float().cpu().numpy()


class NetworkFeatures:
    """`FeatureExtractor` over a network of transformers: unit vectors of centre squares.

    Args:
        network: on the device already.
        read: (n, 3, side, side) pixels -> (n, dimensions).
        side, mean, std: of the preparation.
    """

    def __init__(
        self,
        name: str,
        identity: str,
        read: Callable[[Tensor], Tensor],
        side: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.name, self.identity, self.notes = name, identity, tuple(notes)
        self.read, self.side, self.mean, self.std, self.device = read, side, mean, std, device
        self.settings: Mapping[str, Any] = {
            "resize": f"centre square to {side} pixels, Pillow bicubic with antialiasing",
            "rounding": "uint8 after the resize",
            "norm": "unit length",
        }

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        squares = [centre_square(image, self.side) for image in images]
        return unit(self.read(normalised(squares, self.mean, self.std).to(self.device)))


def clip_l_336(options: MeasureOptions) -> NetworkFeatures:
    """CLIP ViT-L/14 at 336 pixels, projected: the features of CMMD."""
    from transformers import CLIPVisionModelWithProjection

    place = options.weights.get("clip-l-336", CLIP_L_336)
    source = find_network(place, pickled=True)
    network = load_network(
        CLIPVisionModelWithProjection,
        source,
        unused=(*OTHER_PARTS, *POSITION_IDS),
        pickled=True,
    ).to(options.device)
    return NetworkFeatures(
        "clip-l-336",
        f"clip-l-336:{source.digest}",
        lambda pixels: network(pixel_values=pixels).image_embeds,
        network.config.image_size,
        CLIP_MEAN,
        CLIP_STD,
        options.device,
        not_pinned(place, source),
    )


def dinov2_base(options: MeasureOptions) -> NetworkFeatures:
    """DINOv2 ViT-B/14 at 224 pixels, its class token."""
    from transformers import Dinov2Model

    place = options.weights.get("dinov2-base", DINOV2_BASE)
    source = find_network(place, licence="Apache-2.0")
    network = load_network(Dinov2Model, source).to(options.device)
    return NetworkFeatures(
        "dinov2-base",
        f"dinov2-base:{source.digest}",
        lambda pixels: network(pixel_values=pixels).last_hidden_state[:, 0],
        224,
        IMAGENET_MEAN,
        IMAGENET_STD,
        options.device,
        not_pinned(place, source),
    )


class InceptionFeatures:
    """The 2,048 features of FID, by torch-fidelity's network and its resize of TensorFlow 1.

    Raises:
        ValueError: if torch-fidelity or the weights are missing (says how to get them).
    """

    name = "inception"

    def __init__(self, options: MeasureOptions) -> None:
        from evals.detectors.weights import INCEPTION, find_file

        try:
            import torch_fidelity
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError(f"FID needs torch-fidelity: {INSTALL_FIDELITY}") from None
        path = options.weights.get("inception") or find_file(INCEPTION, "fidelity")
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        ).to(options.device)
        self.device = options.device
        self.identity = f"inception-v3-compat:{INCEPTION.sha256[:8]}"
        self.settings: Mapping[str, Any] = {
            "torch-fidelity": torch_fidelity.__version__,
            "resize": "whole image to 299 pixels, bilinear as in TensorFlow 1, no antialiasing",
            "rounding": "none after the resize",
        }

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
        found: np.ndarray = self.network(pixels)[0].float().cpu().numpy()
        return found


class DreamSimFeatures:
    """DreamSim's ensemble, whose cosine distance follows what people call similar.

    The package fetches its weights itself, and the code of one of its networks, DINO, from that
    network's own repository, through torch.hub: both come from GitHub and run here. Where that is
    not wanted, CLIP's features do.

    Raises:
        ValueError: if the package is not installed (says which extra to install), or its weights or
            DINO's code are neither here nor to be had.
    """

    name = "dreamsim"

    def __init__(self, options: MeasureOptions) -> None:
        from importlib.metadata import version

        from evals.detectors.weights import default_cache

        try:
            from dreamsim import dreamsim
        except ImportError:
            raise ValueError(f"these features need DreamSim: {INSTALL_DREAMSIM}") from None
        place = Path(options.weights.get("dreamsim") or default_cache() / "dreamsim")
        try:
            place.mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
                self.network, self.prepare = dreamsim(
                    pretrained=True, device=options.device, cache_dir=str(place)
                )
        except Exception as error:  # of the network, of files, of torch.hub
            raise ValueError(
                f"DreamSim cannot be opened from {place} ({first_line(error)}): it fetches its "
                "weights, and the code of DINO, from GitHub; choose other features with "
                "--features clip-l-336"
            ) from None
        self.device = options.device
        self.identity = f"dreamsim-ensemble:{version('dreamsim')}:{weights_digest(self.network)}"
        self.settings: Mapping[str, Any] = {"resize": "the package's own", "norm": "unit length"}

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        pixels = torch.cat([self.prepare(Image.fromarray(image)) for image in images])
        return unit(self.network.embed(pixels.to(self.device)))


class ShapesFeatures:
    """The shapes world's own: the detector's inner activations, averaged over quarters of the
    picture, so that they know what is drawn and roughly where."""

    name = "shapes"

    def __init__(self, preset: str, device: str) -> None:
        from evals.detectors.shapes import ShapesDetector

        detector = ShapesDetector(preset, device=device)
        self.network, self.device, self.side = detector.network, device, detector.preset.image_size
        self.identity = f"shapes-features:{detector.identity}"
        self.settings: Mapping[str, Any] = {
            "resize": "none",
            "activations": "after the middle layer, averaged over 2 x 2 quarters",
            "norm": "unit length",
        }

    @torch.inference_mode()
    def features(self, images: Sequence[np.ndarray]) -> np.ndarray:
        if any(image.shape != (self.side, self.side, 3) for image in images):
            raise ValueError(f"features of the shapes world need images of {self.side} pixels")
        found: list[Tensor] = []
        hook = self.network.middle.register_forward_hook(lambda m, i, output: found.append(output))
        try:
            pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(self.device)
            self.network(pixels.float() / 127.5 - 1.0)
        finally:
            hook.remove()
        return unit(torch.nn.functional.adaptive_avg_pool2d(found[0], 2).flatten(1))


def features_of(
    drawn: DrawnImages, extractor: FeatureExtractor, batch_size: int, progress: Progress
) -> tuple[np.ndarray, np.ndarray]:
    """Features of all images that are finite, kept beside them batch by batch.

    Returns:
        (n, dimensions) float32, and (n,) the prompt of each image.
    """
    path = drawn.out / MEASURES / f"features-{extractor.name}.jsonl"
    identity = {"features": extractor.identity, "settings": dict(extractor.settings)}
    stored = StoredRows(path, identity, drawn.folder.images, batch_size)

    def look(found: Sequence[FoundImage], pixels: Sequence[np.ndarray]) -> list[dict[str, str]]:
        rows = np.ascontiguousarray(extractor.features(pixels), dtype="<f4")
        return [{"features": base64.b64encode(row.tobytes()).decode()} for row in rows]

    stored.look(look, progress)
    rows = [row for row in stored.finish() if not row.get("failed")]
    if not rows:
        raise ValueError(f"{drawn.out} holds no image that is finite, so nothing can be measured")
    values = [np.frombuffer(base64.b64decode(row["features"]), dtype="<f4") for row in rows]
    return np.stack(values), np.array([row["prompt_id"] for row in rows])


def open_features(options: MeasureOptions, name: str, world_preset: str) -> FeatureExtractor:
    """The extractor by name; on the shapes world its own, whatever the name.

    Raises:
        ValueError: if the name is unknown, or packages or weights are missing.
    """
    from evals.registry import FEATURES

    if world_preset:
        if options.features not in ("", "shapes"):
            raise ValueError("the shapes world has features of its own: leave --features out")
        if world_preset == "squares":
            raise ValueError("the squares have no features of their own: measure shapes@1 instead")
        return ShapesFeatures(world_preset, options.device)
    extractor: FeatureExtractor = FEATURES.load(options.features or name)(options)
    return extractor


def default_spread_features() -> str:
    """DreamSim where it is installed, else CLIP."""
    import importlib.util

    return "dreamsim" if importlib.util.find_spec("dreamsim") else "clip-l-336"


def image_files(folder: Path) -> list[Path]:
    """Pictures below a folder, by name."""
    endings = (".png", ".jpg", ".jpeg", ".webp")
    return [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in endings and p.is_file()]
