"""Colours by CLIP: cutting out, batching, and the activation OpenAI's weights were made for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from evals.base import Detection, ImageVerdict
from evals.detectors import clip_colors, weights
from evals.detectors.mask2former.detector import Mask2FormerDetector
from evals.registry import open_color_classifier, open_detector
from evals.scoring.benchmark import _scores_folder
from evals.scoring.settings import BenchmarkSettings
from evals.suites.rules import COLORS
from evals.verdicts import differing_verdicts


def tiny_clip(quick_gelu: bool) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(
        embed_dim=16,
        vision_cfg=dict(layers=1, width=32, head_width=16, patch_size=8, image_size=32),
        text_cfg=dict(context_length=77, vocab_size=49408, width=16, heads=2, layers=1),
        quick_gelu=quick_gelu,
    ).eval()


@pytest.fixture(scope="module")
def classifier():
    tokenizer = open_clip.get_tokenizer(clip_colors.CLIP_MODEL)
    return clip_colors.ClipColorClassifier(tiny_clip(True), tokenizer, "tiny")


def scene(seed: int) -> tuple[np.ndarray, list[Detection]]:
    draw = np.random.default_rng(seed)
    image = draw.integers(0, 256, (60, 80, 3), np.uint8)
    found = []
    for label in ("dog", "cup", "dog")[: 1 + seed]:
        x, y = int(draw.integers(0, 40)), int(draw.integers(0, 30))
        mask = np.zeros((60, 80), bool)
        mask[y + 2 : y + 20, x + 3 : x + 30] = True
        box = (float(x), float(y), float(x + 33), float(y + 25))
        found.append(Detection(label=label, box=box, score=0.9, mask=mask))
    return image, found


def test_the_plain_name_builds_another_activation():
    """The trap: open_clip's ViT-L-14 takes OpenAI's weights and computes GELU."""
    assert open_clip.get_model_config("ViT-L-14-quickgelu")["quick_gelu"] is True
    assert not open_clip.get_model_config("ViT-L-14").get("quick_gelu", False)
    plain, quick = tiny_clip(False), tiny_clip(True)
    plain.load_state_dict(quick.state_dict(), strict=True)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        gap = (plain.encode_image(images) - quick.encode_image(images)).abs().max()
    assert gap > 1e-3


@pytest.mark.parametrize("name,fits", [("ViT-L-14-quickgelu", True), ("ViT-L-14", False)])
def test_activation_of_the_real_architectures(name, fits):
    model = clip_colors.shallow_clip(name)
    if fits:
        clip_colors.check_activation(model)
    else:
        with pytest.raises(ValueError, match="GELU.*not QuickGELU.*ViT-L-14-quickgelu"):
            clip_colors.check_activation(model)


def test_a_gelu_clip_is_refused_at_the_start():
    with pytest.raises(ValueError, match="not QuickGELU"):
        clip_colors.ClipColorClassifier(tiny_clip(False), lambda texts: texts, "gelu")
    half = tiny_clip(True)
    half.transformer.resblocks[0].mlp.gelu = torch.nn.GELU()
    with pytest.raises(ValueError, match=r"transformer\.resblocks\.0\.mlp\.gelu"):
        clip_colors.check_activation(half)
    with pytest.raises(ValueError, match="no QuickGELU"):
        clip_colors.check_activation(torch.nn.Linear(2, 2))


def test_outside_the_mask_is_grey_and_inside_untouched():
    image, found = scene(0)
    part = np.array(clip_colors.cut_out(image, found[0]))
    x1, y1, x2, y2 = (int(v) for v in found[0].box)
    inside = found[0].mask[y1:y2, x1:x2]
    assert part.shape == (25, 33, 3)
    assert (part[inside] == image[y1:y2, x1:x2][inside]).all()
    assert (part[~inside] == 0x99).all() and (~inside).any()
    whole = Image.composite(
        Image.fromarray(image), Image.new("RGB", (80, 60), "#999"), Image.fromarray(found[0].mask)
    )
    assert (part == np.array(whole.crop(found[0].box))).all()


def test_all_objects_of_all_images_go_through_at_once(classifier, monkeypatch):
    scenes = [scene(i) for i in (0, 1, 2)]
    images, found = [s[0] for s in scenes], [s[1] for s in scenes]
    sizes = []
    encode = classifier.model.encode_image

    def counted(pixels, **options):
        sizes.append(len(pixels))
        return encode(pixels, **options)

    monkeypatch.setattr(classifier.model, "encode_image", counted)
    together = classifier.classify(images, found)
    assert sizes == [6]
    assert [len(names) for names in together] == [1, 2, 3]
    one_by_one = [
        [classifier.classify([image], [[d]])[0][0] for d in group]
        for image, group in zip(images, found, strict=True)
    ]
    assert together == one_by_one
    assert classifier.classify(images, [[], [], []]) == [[], [], []]


def test_classifier_equals_open_clips_zero_shot_form_and_is_kept(classifier):
    with torch.no_grad():
        templates = [(lambda c, t=t: t.format(c=c, x="cup")) for t in clip_colors.TEMPLATES]
        wanted = open_clip.build_zero_shot_classifier(
            classifier.model, classifier.tokenizer, COLORS, templates
        )
        got = classifier.text_classifier("cup")
    assert torch.allclose(got, wanted.T, atol=1e-6)
    assert classifier.text_classifier("cup") is got
    assert not torch.allclose(classifier.text_classifier("dog"), got)


def test_the_named_colour_is_the_nearest_text(classifier):
    image, found = scene(0)
    with torch.no_grad():
        pixels = classifier.transform(clip_colors.cut_out(image, found[0]))[None]
        feature = classifier.model.encode_image(pixels, normalize=True)[0]
        best = int((classifier.text_classifier("dog") @ feature).argmax())
    assert classifier.classify([image], [found]) == [[COLORS[best]]]


def test_empty_boxes_and_foreign_masks_are_named(classifier):
    image, found = scene(0)
    empty = found[0].model_copy(update={"box": (0.0, 0.0, 0.0, 0.0)})
    with pytest.raises(ValueError, match="is empty"):
        classifier.classify([image], [[empty]])
    foreign = found[0].model_copy(update={"mask": np.ones((5, 5), bool)})
    with pytest.raises(ValueError, match="does not fit an image"):
        classifier.classify([image], [[foreign]])


@pytest.mark.fault(24)
def test_absent_or_wrong_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="selfe-bench fetch geneval") as absent:
        clip_colors.ClipColorClassifier.from_published()
    assert weights.CLIP_VIT_L_14.url in str(absent.value)
    wrong = tmp_path / weights.CLIP_VIT_L_14.name
    wrong.write_bytes(b"no clip")
    begins = hashlib.sha256(b"no clip").hexdigest()[:8]
    with pytest.raises(ValueError, match=f"begins with {begins}, expected b8cca3fd"):
        clip_colors.ClipColorClassifier.from_published()


def test_half_precision_is_another_identity_of_the_same_colours(classifier):
    half = clip_colors.ClipColorClassifier(
        classifier.model, classifier.tokenizer, "tiny", autocast=True
    )
    assert (classifier.identity, half.identity) == ("tiny", "tiny fp16 autocast")
    seen = []
    handle = classifier.model.visual.register_forward_hook(
        lambda module, args, out: seen.append((out[0] if isinstance(out, tuple) else out).dtype)
    )
    images, detections = zip(*(scene(seed) for seed in range(3)), strict=True)
    try:
        full_names = classifier.classify(images, detections)
        half_names = half.classify(images, detections)
    finally:
        handle.remove()
    assert seen == [torch.float32, torch.float16]
    flat = [
        (a, b)
        for x, y in zip(full_names, half_names, strict=True)
        for a, b in zip(x, y, strict=True)
    ]
    assert len(flat) == 6 and sum(a == b for a, b in flat) >= 4
    assert {name for pair in flat for name in pair} <= set(COLORS)


def test_verdicts_that_differ_from_the_suites_own_are_counted(tmp_path):
    own, other = tmp_path, tmp_path / "colors-clip-fp16"
    other.mkdir()
    assert differing_verdicts(other, own) == ""
    for folder, wrong in ((own, {1}), (other, {1, 2, 3})):
        rows = [
            {
                "prompt_id": i,
                "sample_id": 0,
                "tag": "colors",
                "correct": i not in wrong,
                "reason": "",
            }
            for i in range(10)
        ]
        text = "".join(ImageVerdict(**row).model_dump_json() + "\n" for row in rows)
        (folder / "images.jsonl").write_text(text)
    assert differing_verdicts(other, own).startswith("2 of 10 verdicts differ")


def test_parts_of_the_official_script_are_reachable_by_name(monkeypatch):
    opened = []
    monkeypatch.setattr(
        clip_colors.ClipColorClassifier,
        "from_published",
        classmethod(lambda cls, **options: opened.append(options)),
    )
    monkeypatch.setattr(
        Mask2FormerDetector,
        "from_published",
        classmethod(lambda cls, **options: opened.append(options)),
    )
    open_color_classifier("clip-fp16", device="cpu")
    open_detector("mask2former-mmdet-2", device="cpu", batch_size=2)
    open_detector("mask2former-compiled", device="cpu")
    assert opened == [
        {"autocast": True, "device": "cpu"},
        {"preparation": "mmdet-2", "device": "cpu", "batch_size": 2},
        {"compiled": True, "device": "cpu"},
    ]
    settings = BenchmarkSettings(color_classifier="clip-fp16")
    suite = settings.open_suite("geneval@1")
    assert (suite.detector, suite.color_classifier) == ("mask2former", "clip-fp16")
    assert _scores_folder(tmp := Path("x"), suite, settings) == tmp / "colors-clip-fp16"
    usual = BenchmarkSettings()
    assert _scores_folder(tmp, usual.open_suite("geneval@1"), usual) == tmp
