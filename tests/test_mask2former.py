"""The mmcv-free Mask2Former: against stored outputs of mmdet, key by key, and its refusals."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from evals.detectors import weights
from evals.detectors.mask2former import checkpoint, detector, keys, processing, selftest
from evals.detectors.mmdet import MMDetDetector
from evals.suites.geneval import COCO_CLASSES
from selfe.files import file_sha256

GOLDEN = Path(__file__).parent / "assets" / "mask2former_golden.npz"
EDGES = (213, 128)
SIZES = ((96, 128), (150, 90), (128, 128))
GAINS = {"plain": 1.0, "sharpened": 12.0}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as stored:
        return dict(stored)


def mmdet_state(golden, gain: float = 1.0) -> dict[str, torch.Tensor]:
    shapes = json.loads(golden["shapes"].tobytes())
    return selftest.weights_by_name({k: tuple(v) for k, v in shapes.items()}, gain)


def small_detector(state: dict[str, torch.Tensor], **options) -> detector.Mask2FormerDetector:
    network = detector.build_network(**selftest.SMALL)
    keys.load_strictly(network, keys.to_transformers(state))
    return detector.Mask2FormerDetector(network, "small", edges=EDGES, **options)


@pytest.fixture(scope="module")
def detectors(golden):
    return {case: small_detector(mmdet_state(golden, gain)) for case, gain in GAINS.items()}


@pytest.mark.parametrize("case", GAINS)
@pytest.mark.parametrize("height,width", SIZES)
def test_objects_equal_those_of_mmdet(golden, detectors, case, height, width):
    name = f"{height}x{width}"
    image = selftest.image_by_name(name, height, width)
    found = detectors[case].detect([image])[0]
    stored = {part: golden[f"{case}/{name}/{part}"] for part in ("labels", "scores", "boxes")}
    ours = np.array([d.score for d in found])
    assert len(found) == len(stored["labels"]) == 100
    assert np.abs(ours - stored["scores"]).max() < 1e-4
    masks = np.unpackbits(golden[f"{case}/{name}/masks"], axis=1, count=height * width)
    # Where two scores are nearer than rounding, order is not defined; everything else must agree.
    clear = _clear_of_ties(stored["scores"])
    assert clear.sum() > 30
    for row in np.flatnonzero(clear):
        assert found[row].label == stored["labels"][row]
        assert np.abs(np.array(found[row].box) - stored["boxes"][row]).max() <= 1
        mask = masks[row].reshape(height, width).astype(bool)
        union = (mask | found[row].mask).sum()
        assert union == 0 or (mask & found[row].mask).sum() / union > 0.999


def _clear_of_ties(scores: np.ndarray, gap: float = 1e-5) -> np.ndarray:
    steps = np.abs(np.diff(scores)) > gap
    return np.concatenate([[True], steps]) & np.concatenate([steps, [True]])


def test_stored_outputs_cross_both_thresholds(golden):
    scores = np.concatenate([golden[f"sharpened/{h}x{w}/scores"] for h, w in SIZES])
    assert (scores > 0.9).sum() > 10
    assert ((scores > 0.3) & (scores < 0.9)).sum() > 10
    assert (scores < 0.3).sum() > 10


def test_batched_and_single_images_agree(detectors):
    images = [selftest.image_by_name(str(i), 96, 96 + 32 * (i % 2)) for i in range(4)]
    together = detectors["sharpened"].detect(images)
    for image, found in zip(images, together, strict=True):
        alone = detectors["sharpened"].detect([image])[0]
        assert [d.label for d in alone[:10]] == [d.label for d in found[:10]]
        assert np.allclose([d.score for d in alone], [d.score for d in found], atol=1e-5)
        assert found[0].mask.shape == image.shape[:2]


def test_min_score_only_leaves_out(golden, detectors):
    image = selftest.image_by_name("128x128", 128, 128)
    everything = detectors["sharpened"].detect([image])[0]
    strong = small_detector(mmdet_state(golden, GAINS["sharpened"]), min_score=0.3).detect([image])[
        0
    ]
    wanted = [d for d in everything if d.score >= 0.3]
    assert [(d.label, d.box) for d in strong] == [(d.label, d.box) for d in wanted]
    assert np.allclose([d.score for d in strong], [d.score for d in wanted], atol=1e-6)


def test_both_layouts_convert_to_equal_bits(golden):
    third = mmdet_state(golden)
    second = keys.to_mmdet_2(third)
    assert keys.layout_of(third) == "mmdet-3"
    assert keys.layout_of(second) == "mmdet-2"
    assert not set(second) <= set(third)
    back = keys.to_mmdet_3(second)
    assert back.keys() == third.keys()
    a, b = keys.to_transformers(third), keys.to_transformers(second)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_decoder_attention_0_of_mmdet_2_is_the_cross_attention(golden):
    second = keys.to_mmdet_2(mmdet_state(golden))
    name = "panoptic_head.transformer_decoder.layers.1.attentions.{}.attn.in_proj_weight"
    converted = keys.to_transformers(second)
    layer = "model.transformer_module.decoder.layers.1."
    assert torch.equal(converted[layer + "cross_attn.in_proj_weight"], second[name.format(0)])
    rows = [converted[f"{layer}self_attn.{part}_proj.weight"] for part in "qkv"]
    assert torch.equal(torch.cat(rows), second[name.format(1)])


def test_patch_merging_order_is_that_of_unfold():
    """mmdet's unfold, norm and reduction on a map equal transformers' with converted weights."""
    from transformers.models.swin.modeling_swin import SwinPatchMerging

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, 4, 6, generator=generator)
    norm = torch.rand(24, generator=generator)
    reduction = torch.randn(12, 24, generator=generator)
    unfolded = F.unfold(x, kernel_size=2, stride=2).transpose(1, 2)
    wanted = F.layer_norm(unfolded, (24,), norm) @ reduction.T
    merging = SwinPatchMerging(6)
    merging.load_state_dict(
        {
            "norm.weight": keys._in_concatenation_order(norm),
            "norm.bias": torch.zeros(24),
            "reduction.weight": keys._in_concatenation_order(reduction),
        }
    )
    tokens = x.flatten(2).transpose(1, 2)
    assert torch.allclose(merging(tokens, (4, 6)), wanted, atol=1e-5)
    merging.norm.weight.data = norm
    assert not torch.allclose(merging(tokens, (4, 6)), wanted, atol=1e-2)


def test_every_key_is_needed_and_none_is_left_over(golden):
    network = detector.build_network(**selftest.SMALL)
    state = mmdet_state(golden)
    converted = keys.to_transformers(state)
    keys.load_strictly(network, converted)
    for lost in ("backbone.norm2.weight", "panoptic_head.pixel_decoder.level_encoding.weight"):
        partial = keys.to_transformers({k: v for k, v in state.items() if k != lost})
        with pytest.raises(ValueError, match="missing"):
            keys.load_strictly(network, partial)
    with pytest.raises(ValueError, match=r"mystery\.weight"):
        keys.to_transformers({**state, "panoptic_head.mystery.weight": torch.ones(1)})
    with pytest.raises(ValueError, match="left over .*extra"):
        keys.load_strictly(network, {**converted, "extra": torch.ones(1)})
    with pytest.raises(ValueError, match="of another shape.*class_predictor.bias"):
        keys.load_strictly(network, {**converted, "class_predictor.bias": torch.ones(54)})


def test_published_sizes_and_another_architecture(golden):
    sizes = detector.swin_s_config()
    with torch.device("meta"):
        network = detector.build_network(**sizes)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(68.7e6, rel=0.02)
    with pytest.raises(ValueError, match="do not fit"):
        keys.load_strictly(network, keys.to_transformers(mmdet_state(golden)))


def test_position_index_is_checked():
    name = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_index"
    good = keys.position_index(7)
    assert good.shape == (49, 49) and int(good.max()) == 168
    decoder = {"panoptic_head.transformer_decoder.layers.0.ffn.layers.1.bias": torch.ones(4)}
    keys.to_transformers({name: good, **decoder})
    with pytest.raises(ValueError, match="relative positions"):
        keys.to_transformers({name: good.flip(0), **decoder})


def test_foreign_weights_are_no_mask2former():
    with pytest.raises(ValueError, match="no Mask2Former decoder"):
        keys.layout_of(["roi_head.bbox_head.fc_cls.weight"])
    with pytest.raises(ValueError, match="both mmdet 2 and mmdet 3"):
        keys.layout_of(
            [
                "panoptic_head.transformer_decoder.layers.0.ffn.layers.1.bias",
                "panoptic_head.transformer_decoder.layers.0.ffns.0.layers.1.bias",
            ]
        )


class Explosive:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.fault(12)
def test_a_pickle_payload_is_refused_and_not_run(tmp_path):
    trace = tmp_path / "ran"
    bad = tmp_path / "weights-743b7d99.pth"
    torch.save({"state_dict": {"a": torch.ones(1)}, "meta": Explosive(str(trace))}, bad)
    with pytest.raises(ValueError, match="refused"):
        checkpoint.read_checkpoint(bad)
    bad.write_bytes(pickle.dumps(Explosive(str(trace))))
    with pytest.raises(ValueError, match="refused"):
        checkpoint.read_checkpoint(bad)
    assert not trace.exists()


def test_plain_facts_beside_the_weights_are_read_over(tmp_path):
    path = tmp_path / "checkpoint.pth"
    meta = {"CLASSES": ("person",), "seed": 3, "config": "text", "shape": np.float64(1.0)}
    for zipped in (True, False):
        torch.save(
            {"state_dict": {"a": torch.ones(2)}, "meta": meta},
            path,
            _use_new_zipfile_serialization=zipped,
        )
        assert torch.equal(checkpoint.read_checkpoint(path)["a"], torch.ones(2))


@pytest.mark.fault(24)
def test_wrong_hash_and_missing_file(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="selfe-bench fetch geneval") as missing:
        detector.Mask2FormerDetector.from_published()
    assert weights.MASK2FORMER_MMDET_2.name in str(missing.value)
    wrong = tmp_path / weights.MASK2FORMER_MMDET_3.name
    wrong.write_bytes(b"not the weights")
    begins = hashlib.sha256(b"not the weights").hexdigest()[:8]
    for given in (None, wrong, tmp_path):
        with pytest.raises(ValueError, match=f"begins with {begins}.*c9d0c4f2"):
            detector.Mask2FormerDetector.from_published(given)


@pytest.mark.parametrize("to_layout", [keys.to_mmdet_2, keys.to_mmdet_3])
def test_a_checkpoint_file_of_either_layout_loads_by_hash(golden, tmp_path, monkeypatch, to_layout):
    state = to_layout(mmdet_state(golden, GAINS["sharpened"]))
    file = tmp_path / "checkpoint.pth"
    torch.save({"meta": {"epoch": 50}, "state_dict": state}, file)
    begins = file_sha256(file)[:8]
    published = weights.PublishedFile(f"published-{begins}.pth", "", begins, "")
    monkeypatch.setattr(detector, "DETECTOR_FILES", (published,))
    monkeypatch.setattr(detector, "swin_s_config", lambda: selftest.SMALL)
    image = selftest.image_by_name("128x128", 128, 128)
    known = detector.Mask2FormerDetector.from_published(file, edges=EDGES)
    assert known.identity == f"mask2former-swin-s:{begins}"
    found = known.detect([image])[0]
    stored = golden["sharpened/128x128/scores"]
    assert np.allclose([d.score for d in found], stored[stored >= 0.05], atol=1e-4)
    other = detector.Mask2FormerDetector.from_checkpoint(file, edges=EDGES)
    assert other.identity == f"mask2former-swin-s:unpublished-{begins}"
    assert np.allclose([d.score for d in other.detect([image])[0]], stored, atol=1e-4)


@pytest.mark.skipif(importlib.util.find_spec("mmdet") is not None, reason="mmdet is installed")
def test_without_mmdet_the_official_detector_says_how_to_install_it():
    with pytest.raises(ValueError, match=r"scripts/install_mmdet\.sh"):
        MMDetDetector.from_published()


@pytest.mark.parametrize(
    "size,wanted",
    [((512, 512), (800, 800)), ((300, 1000), (400, 1333)), ((480, 640), (800, 1067))],
)
def test_resized_shape(size, wanted):
    assert processing.resized_shape(*size) == wanted


def test_resize_agrees_with_torch_and_halving_is_the_mean_of_four():
    x = torch.rand(2, 3, 20, 30, generator=torch.Generator().manual_seed(0)) * 255
    wanted = F.interpolate(x, size=(33, 47), mode="bilinear", align_corners=False)
    assert (processing.resize_bilinear(x, 33, 47) - wanted).abs().max() < 0.01
    halved = processing.resize_bilinear(x, 10, 15)
    assert torch.allclose(halved, F.avg_pool2d(x, 2), atol=1e-3)
    assert processing.resize_bilinear(x, 20, 30) is x


def test_resize_is_the_exact_interpolation_to_the_last_bits():
    """Of stripes, where a place that is off by 3e-5 changes a grey level by 0.008."""
    width, new = 1000, 1333
    stripes = torch.arange(width).remainder(2).float().mul(255).expand(1, 1, 2, width)
    got = processing.resize_bilinear(stripes, 2, new)[0, 0, 0].double().numpy()
    place = ((np.arange(new) + 0.5) * width / new - 0.5).clip(0, width - 1)
    exact = np.interp(place, np.arange(width), stripes[0, 0, 0].double().numpy())
    assert np.abs(got - exact).max() < 1e-3


def test_preparation_pads_with_what_each_version_pads():
    images = torch.full((1, 40, 60, 3), 100, dtype=torch.uint8)
    for preparation, pad in (("mmdet-3", 0.0), ("mmdet-2", (128 - 123.675) / 58.395)):
        pixels, resized = processing.prepare(images, preparation, 90, 50)
        assert resized == (50, 75) and pixels.shape == (1, 3, 64, 96)
        assert torch.allclose(pixels[0, 0, 50:, :], torch.tensor(pad), atol=1e-5)
        assert torch.allclose(pixels[0, 0, :50, :75], torch.tensor((100 - 123.675) / 58.395))
        assert torch.allclose(pixels[0, 2, :50, :75], torch.tensor((100 - 103.53) / 57.375))


def test_read_out_finds_synthetic_objects_and_boxes_bound_masks():
    assert selftest.check_read_out() is None
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 2:4, 1:7] = True
    masks[2, 5, 7] = True
    assert processing.boxes_round(masks).tolist() == [[1, 2, 7, 4], [0, 0, 0, 0], [7, 5, 8, 6]]


def test_images_of_another_kind_are_refused(detectors):
    with pytest.raises(ValueError, match=r"image 0 is float32.*uint8"):
        detectors["plain"].detect([np.zeros((64, 64, 3), np.float32)])
    assert detectors["plain"].detect([]) == []
    assert tuple(detectors["plain"].classes) == COCO_CLASSES


def test_hub_variant_absent_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="hf download nobody/absent"):
        detector.Mask2FormerDetector.from_hub("nobody/absent")


def test_hub_variant_loads_under_a_name_of_its_own(golden, tmp_path):
    network = detector.build_network(**selftest.SMALL)
    keys.load_strictly(network, keys.to_transformers(mmdet_state(golden)))
    network.save_pretrained(tmp_path)
    found = detector.Mask2FormerDetector.from_hub(str(tmp_path), edges=EDGES, min_score=0.0)
    assert found.identity.startswith("mask2former-hf:")
    image = selftest.image_by_name("96x128", 96, 128)
    stored = golden["plain/96x128/scores"]
    assert np.allclose([d.score for d in found.detect([image])[0]], stored, atol=1e-4)
