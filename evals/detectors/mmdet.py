"""The official detector: mmdet 3.3 with mmcv, installed by scripts/install_mmdet.sh.

Weights are read by our own safe reader and loaded strictly: mmengine's loader executes pickles and
passes over keys that do not fit.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evals.base import Detection
from evals.detectors.mask2former import keys
from evals.detectors.mask2former.checkpoint import read_checkpoint
from evals.detectors.mask2former.detector import batches_of_one_size, published_weights
from evals.suites.geneval import COCO_CLASSES
from selfe.published_weights import other_kinds

CONFIG = "mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"
INSTALL = "run scripts/install_mmdet.sh (8 minutes or more), or use the detector mask2former"


def official_config() -> Any:
    """mmdet's own configuration of the published model, out of its wheel.

    Raises:
        ValueError: if mmdet is not installed or cannot be imported; says how to install it.
    """
    try:
        import mmdet
        from mmengine import Config
        from mmengine.registry import init_default_scope
    except (ImportError, AssertionError) as error:
        raise ValueError(f"mmdet cannot be imported ({error}); {INSTALL}") from error
    init_default_scope("mmdet")
    path = Path(mmdet.__file__).parent / ".mim" / "configs" / CONFIG
    if not path.is_file():
        raise ValueError(f"mmdet {mmdet.__version__} comes without {CONFIG}; {INSTALL}")
    config = Config.fromfile(str(path))
    config.model.backbone.init_cfg = None
    return config


def build_model(config: Any, state: dict[str, torch.Tensor]) -> Any:
    """mmdet's model with weights of either layout; every key has to fit.

    Raises:
        ValueError: listing the keys that are missing, left over or of another shape.
    """
    from mmdet.registry import MODELS

    model = MODELS.build(copy.deepcopy(config.model))
    state = keys.to_mmdet_3(state)
    own = model.state_dict()
    # Position indices are constants of the code; some files lack them.
    optional = {k for k in own if k.endswith("relative_position_index")}
    missing = sorted(own.keys() - state.keys() - optional)
    left_over = sorted(state.keys() - own.keys())
    wrong = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    kinds = other_kinds(own, state)
    if missing or left_over or wrong or kinds:
        raise ValueError(
            f"the weights do not fit mmdet's Mask2Former: missing {missing}, left over "
            f"{left_over}, of another shape {wrong}, whole numbers for fractions {kinds}"
        )
    model.load_state_dict({**{k: own[k] for k in optional}, **state}, strict=True)
    return model.eval().requires_grad_(False)


class MMDetDetector:
    """`Detector` over mmdet's model and mmdet's own test pipeline.

    Args:
        model: of `build_model`.
        config: the configuration it was built from; its test pipeline is used.
        identity: implementation and weights.
    """

    classes: Sequence[str] = COCO_CLASSES

    def __init__(
        self,
        model: Any,
        config: Any,
        identity: str,
        device: str | torch.device = "cpu",
        batch_size: int = 1,
    ) -> None:
        from mmengine.dataset import Compose

        self.model = model.to(device)
        self.batch_size = batch_size
        self.identity = identity
        steps = [copy.deepcopy(s) for s in config.test_dataloader.dataset.pipeline]
        steps = [s for s in steps if not s.type.endswith("LoadAnnotations")]
        assert steps[0].type.endswith("LoadImageFromFile")
        steps[0] = dict(
            type="mmdet.LoadImageFromNDArray", to_float32=steps[0].get("to_float32", False)
        )
        self.pipeline = Compose(steps)

    @classmethod
    def from_published(
        cls, weights: Path | str | None = None, device: str | torch.device = "cpu", **options: Any
    ) -> MMDetDetector:
        """With the published weights, as `Mask2FormerDetector.from_published`."""
        import importlib.metadata

        config = official_config()
        path, published = published_weights(weights)
        model = build_model(config, read_checkpoint(path))
        version = importlib.metadata.version("mmdet")
        identity = f"mmdet-{version} mask2former-swin-s:{published.sha256[:8]}"
        return cls(model, config, identity, device, **options)

    @torch.inference_mode()
    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """(H, W, 3) uint8 images -> detections by falling score, masks included."""
        found: list[list[Detection]] = [[] for _ in images]
        for indices in batches_of_one_size(images, self.batch_size):
            # mmdet takes images as OpenCV reads them: blue first.
            items = [
                self.pipeline({"img": np.ascontiguousarray(images[i][..., ::-1]), "img_id": 0})
                for i in indices
            ]
            results = self.model.test_step(
                {
                    "inputs": [item["inputs"] for item in items],
                    "data_samples": [item["data_samples"] for item in items],
                }
            )
            for index, result in zip(indices, results, strict=True):
                found[index] = self._detections(result.pred_instances)
        return found

    def _detections(self, instances: Any) -> list[Detection]:
        scores = instances.scores.cpu()
        order = torch.argsort(scores, descending=True, stable=True)
        labels = instances.labels.cpu()[order].tolist()
        boxes = instances.bboxes.cpu()[order].tolist()
        masks = instances.masks.cpu()[order].numpy().astype(bool)
        return [
            Detection(
                label=self.classes[label],
                box=(box[0], box[1], box[2], box[3]),
                score=min(1.0, score),
                mask=mask,
            )
            for label, score, box, mask in zip(
                labels, scores[order].tolist(), boxes, masks, strict=True
            )
        ]


def check_deformable_attention(device: str | torch.device) -> str | None:
    """mmcv's multi-scale deformable attention on the device against its pure-torch form.

    Returns what is wrong, or None. A wheel without kernels for the GPU fails here ("no kernel
    image") instead of giving empty detections.
    """
    try:
        from mmcv.ops.multi_scale_deform_attn import (
            MultiScaleDeformableAttention,
            multi_scale_deformable_attn_pytorch,
        )
    except (ImportError, AssertionError) as error:
        return f"mmcv's operators cannot be imported ({error})"
    generator = torch.Generator().manual_seed(0)
    shapes = torch.tensor([[6, 5], [3, 4]])
    starts = torch.tensor([0, 30])
    query = torch.randn(1, 7, 32, generator=generator)
    value = torch.randn(1, 42, 32, generator=generator)
    points = torch.rand(1, 7, 2, 2, generator=generator)
    layer = MultiScaleDeformableAttention(
        embed_dims=32, num_heads=4, num_levels=2, num_points=3, batch_first=True
    ).eval()
    try:
        with torch.inference_mode():
            layer = layer.to(device)
            got = layer(
                query.to(device),
                value=value.to(device),
                identity=torch.zeros_like(query).to(device),
                reference_points=points.to(device),
                spatial_shapes=shapes.to(device),
                level_start_index=starts.to(device),
            ).cpu()
            layer = layer.cpu()
            values = layer.value_proj(value).view(1, 42, 4, 8)
            offsets = layer.sampling_offsets(query).view(1, 7, 4, 2, 3, 2)
            weights = layer.attention_weights(query).view(1, 7, 4, 6).softmax(-1)
            places = (
                points[:, :, None, :, None, :]
                + offsets / shapes.flip(1)[None, None, None, :, None, :]
            )
            wanted = layer.output_proj(
                multi_scale_deformable_attn_pytorch(
                    values, shapes, places, weights.view(1, 7, 4, 2, 3)
                )
            )
    except RuntimeError as error:
        return str(error).splitlines()[0]
    gap = float((got - wanted).abs().max())
    return None if gap < 1e-3 else f"differs from the pure-torch form by {gap:.3g}"
