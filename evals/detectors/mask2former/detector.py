"""Mask2Former Swin-S, COCO instance, the detector of GenEval: without mmcv, with its weights.

The network is transformers'; keys are converted by `mask2former_keys`, pictures prepared and
answers read out by `mask2former_processing` as mmdet does. `scripts/checks/mask2former_parity.py`
compares it with mmdet 3.3.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evals.base import Detection
from evals.detectors.mask2former import keys, processing
from evals.detectors.mask2former.checkpoint import read_checkpoint
from evals.detectors.mask2former.processing import Preparation
from evals.detectors.weights import DETECTOR_FILES, PublishedFile, check_hash, find_detector
from evals.suites.geneval import COCO_CLASSES
from selfe.files import file_sha256
from selfe.published_weights import require_complete

PUBLISHED_MIN_SCORE = 0.05
"""Default of detectors with published weights: a sixth of what GenEval's rules ask for. Reading out
all hundred objects of an image costs more than the rest of the post-processing together."""

HF_VARIANT = "facebook/mask2former-swin-small-coco-instance"


def swin_s_config() -> dict[str, Any]:
    """Every size of the published network, as arguments of `build_network`."""
    return dict(
        embed_dim=96,
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        window_size=7,
        feature_size=256,
        attention_heads=8,
        pixel_layers=6,
        pixel_feedforward=1024,
        decoder_layers=9,
        decoder_feedforward=2048,
        num_queries=100,
        num_classes=80,
    )


def build_network(
    *,
    embed_dim: int,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    feature_size: int,
    attention_heads: int,
    pixel_layers: int,
    pixel_feedforward: int,
    decoder_layers: int,
    decoder_feedforward: int,
    num_queries: int,
    num_classes: int,
) -> nn.Module:
    """transformers' Mask2Former with a Swin backbone; 3 feature levels of 4 points each."""
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        SwinConfig,
    )

    backbone = SwinConfig(
        patch_size=4,
        num_channels=3,
        embed_dim=embed_dim,
        depths=list(depths),
        num_heads=list(num_heads),
        window_size=window_size,
        mlp_ratio=4.0,
        qkv_bias=True,
        hidden_act="gelu",
        layer_norm_eps=1e-5,
        use_absolute_embeddings=False,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=feature_size,
        mask_feature_size=feature_size,
        hidden_dim=feature_size,
        num_attention_heads=attention_heads,
        encoder_layers=pixel_layers,
        encoder_feedforward_dim=pixel_feedforward,
        # transformers counts the prediction before the first layer as a layer.
        decoder_layers=decoder_layers + 1,
        dim_feedforward=decoder_feedforward,
        activation_function="relu",
        dropout=0.0,
        pre_norm=False,
        enforce_input_projection=False,
        common_stride=4,
        feature_strides=[4, 8, 16, 32],
        num_queries=num_queries,
        num_labels=num_classes,
        # Without it transformers keeps none of the answers it reads its output from.
        use_auxiliary_loss=True,
    )
    return Mask2FormerForUniversalSegmentation(config).eval().requires_grad_(False)


class Mask2FormerDetector:
    """`Detector` over a loaded network.

    Args:
        network: of `build_network`, in evaluation mode.
        identity: implementation and weights.
        device: where it runs.
        batch_size: images of one size that go through together; None for 8 on an accelerator, 2 on
            a processor and 1 there if compiled, where more take longer (reports/speed/missed.md).
        min_score: objects scored below are left out. 0 keeps all hundred, as mmdet does; GenEval's
            rules ask for more than 0.3, so that a small positive value only saves time and memory.
        preparation: "mmdet-3", or "mmdet-2" for the 8-bit resizing of GenEval's own environment.
        edges: (long, short) edge that images are resized to fit.
        compiled: the pixel decoder, half of the network's time, by `torch.compile`. Every size of
            images is compiled on its own, a minute or two on a processor; then the network takes
            less time (reports/speed/missed.md). Batches are filled up to `batch_size`, so that
            their size never changes. Last bits differ, and the identity says "compiled".

    Raises:
        ValueError: for `compiled` where the environment forbids it.
    """

    classes: Sequence[str] = COCO_CLASSES

    def __init__(
        self,
        network: nn.Module,
        identity: str,
        device: str | torch.device = "cpu",
        batch_size: int | None = None,
        min_score: float = 0.0,
        preparation: Preparation = "mmdet-3",
        edges: tuple[int, int] = (processing.LONG_EDGE, processing.SHORT_EDGE),
        classes: Sequence[str] = COCO_CLASSES,
        compiled: bool = False,
    ) -> None:
        self.network = network.to(device)
        self.device = torch.device(device)
        together = (1 if compiled else 2) if self.device.type == "cpu" else 8
        self.batch_size = batch_size or together
        self.min_score = min_score
        self.preparation: Preparation = preparation
        self.edges = edges
        self.classes = classes
        self.identity = identity if preparation == "mmdet-3" else f"{identity} {preparation} input"
        self.compiled = compiled
        if compiled:
            if os.environ.get("TORCHDYNAMO_DISABLE") == "1" or torch._dynamo.config.disable:
                off = "TORCHDYNAMO_DISABLE or TORCH_COMPILE_DISABLE"
                raise ValueError(f"{off} switches off what a compiled detector needs")
            self.identity += " compiled"
            # The backbone gains nothing. Without `fullgraph` torch may run it uncompiled.
            self.network.get_submodule("model.pixel_level_module.decoder").compile(
                dynamic=False, fullgraph=True, isolate_recompiles=True
            )

    @classmethod
    def from_published(
        cls, weights: Path | str | None = None, device: str | torch.device = "cpu", **options: Any
    ) -> Mask2FormerDetector:
        """With the published weights: a file, or whichever of the two the cache folder holds.

        Raises:
            ValueError: if the file is missing, is not one of the two by its hash, or does not fit
                the network key by key.
        """
        path, published = published_weights(weights)
        options.setdefault("min_score", PUBLISHED_MIN_SCORE)
        return cls(_load(path), f"mask2former-swin-s:{published.sha256[:8]}", device, **options)

    @classmethod
    def from_published_as_mmdet_2(cls, **options: Any) -> Mask2FormerDetector:
        """`from_published` on images prepared in 8 bits, as in GenEval's own environment."""
        return cls.from_published(preparation="mmdet-2", **options)

    @classmethod
    def from_published_compiled(cls, **options: Any) -> Mask2FormerDetector:
        """`from_published`, compiled: for many images of one size."""
        return cls.from_published(compiled=True, **options)

    @classmethod
    def from_checkpoint(
        cls, path: Path | str, device: str | torch.device = "cpu", **options: Any
    ) -> Mask2FormerDetector:
        """With other weights of the same network, in either layout, under a name of their own."""
        identity = f"mask2former-swin-s:unpublished-{file_sha256(Path(path))[:8]}"
        return cls(_load(Path(path)), identity, device, **options)

    @classmethod
    def from_hub(
        cls, name: str = HF_VARIANT, device: str | torch.device = "cpu", **options: Any
    ) -> Mask2FormerDetector:
        """With the weights published at the hub by the authors: another training, another name.

        Only the hub's cache is read.

        Raises:
            ValueError: if the cache lacks it, or it is not an 80-class COCO instance model.
        """
        from transformers import Mask2FormerForUniversalSegmentation

        try:
            network, loaded = Mask2FormerForUniversalSegmentation.from_pretrained(
                name, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except OSError as error:
            raise ValueError(
                f"{name} is not in the hub's cache (model.safetensors, config.json); run "
                f"`hf download {name}` where there is a connection"
            ) from error
        require_complete(name, loaded, optional=sorted(keys._NEVER_READ))
        if network.class_predictor.out_features != len(COCO_CLASSES) + 1:
            raise ValueError(f"{name} does not have the 80 COCO classes")
        network = network.eval().requires_grad_(False)
        options.setdefault("min_score", PUBLISHED_MIN_SCORE)
        return cls(network, f"mask2former-hf:{name}:{digest_of(network)[:8]}", device, **options)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """(H, W, 3) uint8 images -> detections by falling score, masks included."""
        found: list[list[Detection]] = [[] for _ in images]
        for indices in batches_of_one_size(images, self.batch_size):
            for index, objects in zip(
                indices, self.objects([images[i] for i in indices]), strict=True
            ):
                found[index] = self._detections(objects)
        return found

    @torch.inference_mode()
    def objects(self, images: Sequence[np.ndarray]) -> list[processing.Objects]:
        """Images of one size -> their objects, on the CPU."""
        batch = torch.from_numpy(np.stack(images)).to(self.device)
        pixels, resized = processing.prepare(batch, self.preparation, *self.edges)
        output = self._run(pixels)
        answers = []
        for class_logits, mask_logits in zip(
            output.class_queries_logits[: len(images)],
            output.masks_queries_logits[: len(images)],
            strict=True,
        ):
            objects = processing.read_out(
                class_logits,
                mask_logits,
                padded=(pixels.shape[2], pixels.shape[3]),
                resized=resized,
                original=(batch.shape[1], batch.shape[2]),
                min_score=self.min_score,
            )
            answers.append(processing.Objects(*(part.cpu() for part in objects)))
        return answers

    def _run(self, pixels: Tensor) -> Any:
        """The network's answers for (B, 3, H, W) pixels, and for the copies that fill the batch.

        Raises:
            ValueError: where it cannot be compiled, as without a C++ compiler, or for more sizes
                than torch keeps compiled.
        """
        if not self.compiled:
            return self.network(pixel_values=pixels)
        copies = pixels[-1:].expand(max(0, self.batch_size - len(pixels)), -1, -1, -1)
        try:
            return self.network(pixel_values=torch.cat([pixels, copies]))
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:
            raise ValueError(
                "the compiled detector takes no images of more sizes than "
                f"{torch._dynamo.config.recompile_limit}; take --detector mask2former for these"
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            needs = ", which needs a C++ compiler" if self.device.type == "cpu" else ""
            raise ValueError(
                f"the detector cannot be compiled here{needs} ({type(cause).__name__}: "
                f"{str(cause).splitlines()[0]}); take --detector mask2former"
            ) from error

    def _detections(self, objects: processing.Objects) -> list[Detection]:
        boxes, masks = objects.boxes.tolist(), objects.masks.numpy()
        return [
            Detection(
                label=self.classes[label],
                box=(box[0], box[1], box[2], box[3]),
                score=min(1.0, score),
                mask=mask,
            )
            for label, score, box, mask in zip(
                objects.labels.tolist(), objects.scores.tolist(), boxes, masks, strict=True
            )
        ]


def _load(path: Path) -> nn.Module:
    network = build_network(**swin_s_config())
    keys.load_strictly(network, keys.to_transformers(read_checkpoint(path)))
    return network


def published_weights(weights: Path | str | None) -> tuple[Path, PublishedFile]:
    """The file to read, known by its hash."""
    if weights is None or Path(weights).is_dir():
        path, published = find_detector(Path(weights) if weights else None)
        check_hash(path, published)
        return path, published
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f"no detector weights at {path}; run `selfe-bench fetch geneval`")
    found = file_sha256(path)
    for published in DETECTOR_FILES:
        if found.startswith(published.sha256):
            return path, published
    known = " or ".join(f.sha256 for f in DETECTOR_FILES)
    raise ValueError(
        f"{path} is not a published detector file: its sha256 begins with {found[:8]}, expected "
        f"{known}; run `selfe-bench fetch geneval`"
    )


def batches_of_one_size(images: Sequence[np.ndarray], batch_size: int) -> list[list[int]]:
    """Indices of images, grouped by size and cut into batches."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"image {index} is {image.dtype} {image.shape}; the detector takes (H, W, 3) uint8"
            )
        groups.setdefault(image.shape, []).append(index)
    return [g[i : i + batch_size] for g in groups.values() for i in range(0, len(g), batch_size)]


def digest_of(network: nn.Module) -> str:
    """sha256 over names and values of all parameters, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters(), key=lambda item: item[0]):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
