"""Distances and diversity: second implementations, chunking, the shapes world, references.

Longer than other files by one second implementation for each distance.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import linalg

from evals.distribution import distances
from evals.distribution.features import (
    centre_square,
    features_of,
    open_features,
)
from evals.distribution.reference import folder_reference
from evals.distribution.spread import distances_by_prompt, pairwise_distance
from evals.images import sample_path, scan_folder, write_failed_marker, write_metadata, write_png
from evals.measure import DrawnImages, MeasureOptions
from evals.pretrained import pinned
from evals.registry import FEATURES, MEASURES, open_measure, open_suite
from evals.suites.limit import limited
from selfe.data.shapes_world import ShapesWorld
from selfe.hub import COMMIT, MissingFilesError

QUIET = lambda done, total: None  # noqa: E731


def unit_rows(rng: np.random.Generator, n: int, shift: float = 0.0, d: int = 12) -> np.ndarray:
    x = rng.normal(size=(n, d)) + shift
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def naive_cmmd(x: np.ndarray, y: np.ndarray) -> float:
    def mean(a: np.ndarray, b: np.ndarray) -> float:
        total = 0.0
        for u in a.astype(float):
            for v in b.astype(float):
                total += np.exp(-np.sum((u - v) ** 2) / (2 * 10**2))
        return total / (len(a) * len(b))

    return 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))


def test_cmmd_equals_its_definition_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = unit_rows(rng, 23), unit_rows(rng, 17, 0.5)
    expected = naive_cmmd(x, y)
    assert distances.cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(distances, "CHUNK", 5)
    assert distances.cmmd(x, y) == pytest.approx(expected, rel=1e-9)
    assert distances.cmmd(x, x) == pytest.approx(0, abs=1e-9)


def test_cmmd_of_some_prompts_equals_cmmd_of_their_images() -> None:
    rng = np.random.default_rng(1)
    x, y, groups = unit_rows(rng, 24), unit_rows(rng, 17, 0.5), np.repeat(np.arange(6), 4)
    distance = distances.cmmd_by_prompt(x, groups, y)
    chosen = np.array([True, False, True, True, False, False])
    assert distance(np.ones(6, bool))["cmmd"] == pytest.approx(naive_cmmd(x, y))
    assert distance(chosen)["cmmd"] == pytest.approx(naive_cmmd(x[chosen[groups]], y))


def test_fid_equals_its_definition() -> None:
    pytest.importorskip("torch_fidelity")
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(80, 6)), rng.normal(size=(60, 6)) @ rng.normal(size=(6, 6)) + 1
    found = distances.fid_by_prompt(x, np.arange(80), y)(np.ones(80, bool))["fid"]
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    gap = x.mean(axis=0) - y.mean(axis=0)
    root = linalg.sqrtm(a @ b).real
    assert found == pytest.approx(gap @ gap + np.trace(a + b - 2 * root), rel=1e-6)


def test_kid_equals_its_definition_on_whole_sets() -> None:
    """With as many images in a subset as there are, every subset is the whole set."""
    pytest.importorskip("torch_fidelity")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=(30, 5)) + 0.3

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / 5 + 1) ** 3

    def off_diagonal(k: np.ndarray) -> float:
        return (k.sum() - np.trace(k)) / (30 * 29)

    expected = off_diagonal(kernel(x, x)) + off_diagonal(kernel(y, y)) - 2 * kernel(x, y).mean()
    found = distances.kid_by_prompt(x, np.arange(30), y)(np.ones(30, bool))["kid"]
    assert found == pytest.approx(1000 * expected, rel=1e-6)


def test_precision_and_recall_equal_their_definition() -> None:
    pytest.importorskip("torch_fidelity")
    rng = np.random.default_rng(4)
    x, y = 0.4 * rng.normal(size=(40, 3)), rng.normal(size=(50, 3))

    def inside(points: np.ndarray, balls: np.ndarray) -> float:
        own = np.linalg.norm(balls[:, None] - balls[None], axis=2)
        radius = np.sort(own, axis=1)[:, 3]
        gaps = np.linalg.norm(points[:, None] - balls[None], axis=2)
        return float((gaps <= radius).any(axis=1).mean())

    found = distances.precision_recall_by_prompt(x, np.arange(40), y)(np.ones(40, bool))
    assert found["precision"] == pytest.approx(inside(x, y))
    assert found["recall"] == pytest.approx(inside(y, x))
    assert found["precision"] > found["recall"]  # a model that draws the middle only


def test_pairwise_distance_equals_its_definition() -> None:
    rng = np.random.default_rng(5)
    x, prompts = unit_rows(rng, 9), np.array([0, 0, 0, 2, 2, 2, 2, 5, 7])
    found = distances_by_prompt(x, prompts)
    assert sorted(found) == [0, 2]
    for prompt, value in found.items():
        mine = x[prompts == prompt].astype(float)
        pairs = [1 - mine[i] @ mine[j] for i in range(len(mine)) for j in range(len(mine)) if i < j]
        assert value == pytest.approx(np.mean(pairs), abs=1e-6)
    assert pairwise_distance(np.tile(x[:1], (4, 1))) == pytest.approx(0, abs=1e-6)


def test_the_centre_square_is_cut_and_resized_with_antialiasing() -> None:
    image = np.zeros((8, 20, 3), np.uint8)
    image[:, 6:14] = 200
    assert (centre_square(image, 4) == 200).all()
    stripes = np.tile(np.array([0, 255], np.uint8)[None, :, None], (16, 8, 3))
    assert np.abs(centre_square(stripes, 4).astype(int)[:, 1:-1] - 127).max() < 30
    assert np.array_equal(centre_square(stripes, 16), stripes)


# ------------------------------------------------------------------------------ shapes world


def draw_shapes(folder: Path, same: bool, per_prompt: int = 4) -> DrawnImages:
    """Renders of the suite's own prompts; with `same`, one render for all images of a prompt."""
    suite = limited(open_suite("shapes@1"), 4)
    world, rng = ShapesWorld("grid"), np.random.default_rng(1)
    for prompt_id, record in enumerate(suite.records):
        write_metadata(folder, prompt_id, record)
        scenes = [world.scene_for(dict(record), rng) for _ in range(per_prompt)]
        pictures = list(world.render_batch(scenes))
        for sample_id in range(per_prompt):
            picture = pictures[0 if same else sample_id]
            write_png(sample_path(folder, prompt_id, sample_id), picture)
    return DrawnImages(suite, scan_folder(folder, suite.records, per_prompt), folder)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DrawnImages]:
    root = tmp_path_factory.mktemp("shapes")
    return {kind: draw_shapes(root / kind, kind == "same") for kind in ("free", "same")}


def test_diversity_sees_collapse_on_the_shapes_world(shapes: dict[str, DrawnImages]) -> None:
    measure = open_measure("diversity", MeasureOptions())
    free, same = (measure.measure(shapes[kind], QUIET) for kind in ("free", "same"))
    assert same.values["pairwise"].mean == pytest.approx(0, abs=1e-6)
    data = free.values["pairwise of data"]
    assert data.low <= free.values["pairwise"].mean <= data.high
    assert free.instrument.identity.startswith("shapes-features:shapes-grid@1")
    assert len(free.per_image) == len(shapes["free"].suite.records)


@pytest.mark.parametrize("name", ["cmmd", "kid"])
def test_distances_run_on_the_shapes_world(shapes: dict[str, DrawnImages], name: str) -> None:
    if name == "kid":
        pytest.importorskip("torch_fidelity")
    measure = open_measure(name, MeasureOptions(resamples=20))
    free, same = (measure.measure(shapes[kind], QUIET).values[name] for kind in ("free", "same"))
    assert free.mean < same.mean and free.low < free.mean < free.high
    again = measure.measure(shapes["free"], QUIET)
    assert again.values[name] == free
    assert "rendered scenes" in again.instrument.settings["reference"]


def test_features_of_shapes_are_not_taken_from_elsewhere() -> None:
    with pytest.raises(ValueError, match="features of its own"):
        open_features(MeasureOptions(features="dinov2-base"), "clip-l-336", "grid")


def test_failed_images_are_left_out_and_told(tmp_path: Path) -> None:
    drawn = draw_shapes(tmp_path, same=False, per_prompt=2)
    write_failed_marker(tmp_path, 0, 1, "latents are not finite")
    folder = scan_folder(tmp_path, drawn.suite.records, 2)
    found = open_measure("diversity", MeasureOptions()).measure(
        DrawnImages(drawn.suite, folder, tmp_path), QUIET
    )
    assert "1 prompts have fewer than two images" in found.notes[0]
    assert 0 not in {prompt for prompt, _, _ in found.per_image}


def test_features_are_kept_and_read_back_bit_by_bit(shapes: dict[str, DrawnImages]) -> None:
    class Once:
        name, identity, settings = "once", "once@1", {"resize": "none"}
        calls = 0

        def features(self, images: Any) -> np.ndarray:
            self.calls += 1
            return np.stack([im.astype(np.float32).mean(axis=(0, 1)) / 3 for im in images])

    extractor = Once()
    x, prompts = features_of(shapes["free"], extractor, 8, QUIET)
    calls = extractor.calls
    again, _ = features_of(shapes["free"], extractor, 8, QUIET)
    assert extractor.calls == calls and np.array_equal(x, again) and x.dtype == np.float32
    assert prompts.tolist() == sorted(prompts.tolist())


# ------------------------------------------------------------------------------ photographs


@pytest.fixture(scope="module")
def tiny_vision(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A CLIP and a DINOv2 of one layer, as repositories."""
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    root = tmp_path_factory.mktemp("vision")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision = {**small, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    vision["projection_dim"] = 8
    text = {**small, "num_attention_heads": 2, "vocab_size": 50, "max_position_embeddings": 16}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        # the whole CLIP is published: the part for text must be passed over
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(root / "clip")
        dino = Dinov2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
        )
        Dinov2Model(dino).save_pretrained(root / "dino")
    return {"clip-l-336": str(root / "clip"), "dinov2-base": str(root / "dino")}


@pytest.mark.parametrize("name", ["clip-l-336", "dinov2-base"])
def test_features_of_photographs(tiny_vision: dict[str, str], name: str) -> None:
    extractor = FEATURES.load(name)(MeasureOptions(weights=tiny_vision))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    together = extractor.features(images)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], rel=1e-5)
    for image, row in zip(images, together, strict=True):
        assert extractor.features([image])[0] == pytest.approx(row, abs=1e-5)
    assert "bicubic" in extractor.settings["resize"]


def test_clip_is_read_from_the_format_it_is_published_in(
    tiny_vision: dict[str, str], tmp_path: Path
) -> None:
    """Its repository has a pickle alone, of which nothing but tensors is taken."""
    from safetensors.torch import load_file

    published = Path(tiny_vision["clip-l-336"])
    (tmp_path / "config.json").write_bytes((published / "config.json").read_bytes())
    state = load_file(published / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    options = [MeasureOptions(weights={"clip-l-336": str(p)}) for p in (published, tmp_path)]
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    safe, pickled = (FEATURES.load("clip-l-336")(each).features([image]) for each in options)
    assert np.allclose(safe, pickled, atol=1e-6)  # where weights lie in memory decides on rounding
    lacking = dict(state)
    del lacking["visual_projection.weight"]
    for content, words in ((lacking, "visual_projection.weight"), (Path("x"), "fetch it again")):
        torch.save(content, tmp_path / "pytorch_model.bin")
        with pytest.raises(ValueError, match=words):
            FEATURES.load("clip-l-336")(options[1])


def test_networks_are_pinned_to_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    from evals.published import HUB_WEIGHTS

    for each in HUB_WEIGHTS.values():
        assert COMMIT.fullmatch(pinned(each.repository)), each.name
        with pytest.raises(MissingFilesError, match=f"--revision {pinned(each.repository)}"):
            each.find(cache_dir="/nowhere")
    assert pinned("somebody/else") == "main"


def photographs(folder: Path, seed: int, n: int = 12) -> Path:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        size = (24, 24, 3) if i % 3 else (24, 30, 3)
        picture = rng.integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i:02d}.{'jpg' if i % 2 else 'png'}")
    return folder


def test_a_folder_of_photographs_is_the_reference(
    tiny_vision: dict[str, str], tmp_path: Path
) -> None:
    options = MeasureOptions(
        weights=tiny_vision,
        reference=photographs(tmp_path / "reference", 0),
        cache=tmp_path / "cache",
        resamples=20,
    )
    suite = limited(open_suite("geneval@1"), 1)
    folder = tmp_path / "drawn"
    rng = np.random.default_rng(1)
    for prompt_id, record in enumerate(suite.records):
        write_metadata(folder, prompt_id, record)
        for sample_id in range(2):
            picture = rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)
            write_png(sample_path(folder, prompt_id, sample_id), picture)
    drawn = DrawnImages(suite, scan_folder(folder, suite.records, 2), folder)
    found = open_measure("cmmd", options).measure(drawn, QUIET)
    settings = found.instrument.settings
    assert settings["images"] == 12 and settings["reference"] == "reference"
    assert settings["sigma"] == 10 and settings["scale"] == 1000
    extractor = FEATURES.load("clip-l-336")(options)
    reference = folder_reference(options.reference, extractor, options)
    x, _ = features_of(drawn, extractor, 4, QUIET)
    assert found.values["cmmd"].mean == pytest.approx(naive_cmmd(x, reference.features), abs=1e-6)
    (kept,) = (tmp_path / "cache").rglob("*.features")
    whole = kept.read_bytes()
    for damaged in (b"", whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1]), b"x" + whole):
        kept.write_bytes(damaged)
        again = folder_reference(options.reference, extractor, options)
        assert np.array_equal(again.features, reference.features) and kept.read_bytes() == whole
    json.dumps(settings)


def test_a_distance_without_reference_is_refused(
    tiny_vision: dict[str, str], tmp_path: Path
) -> None:
    suite = limited(open_suite("geneval@1"), 1)
    drawn = DrawnImages(suite, scan_folder(tmp_path, [], 4), tmp_path)
    with pytest.raises(ValueError, match="--reference FOLDER"):
        open_measure("cmmd", MeasureOptions(weights=tiny_vision)).measure(drawn, QUIET)
    empty = MeasureOptions(weights=tiny_vision, reference=tmp_path)
    with pytest.raises(ValueError, match="holds 0 pictures"):
        open_measure("cmmd", empty).measure(drawn, QUIET)
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("a.png", "b.png"):
        (broken / name).write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png: cannot be decoded"):
        open_measure("cmmd", MeasureOptions(weights=tiny_vision, reference=broken, cache=tmp_path)
                     ).measure(drawn, QUIET)  # fmt: skip


def tiny_dreamsim(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The package's own ensemble and adapter, with networks of 24 numbers a token in place of
    768."""
    pytest.importorskip("dreamsim")
    from dreamsim.feature_extraction.extractor import ViTExtractor
    from dreamsim.feature_extraction.vision_transformer import VisionTransformer
    from dreamsim.model import PerceptualModel, dreamsim_args
    from peft import LoraConfig, get_peft_model

    def create(model_type: str, load_dir: str) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(model_type))
            network = VisionTransformer(patch_size=16, embed_dim=24, num_heads=2)
            head = torch.randn(24, 8)
        return network if model_type.startswith("dino") else (network, head)

    monkeypatch.setattr(ViTExtractor, "create_model", staticmethod(create))
    for name in ("dino_vitb16_pretrain.pth", "open_clip_vitb16_pretrain.pth.tar",
                 "clip_vitb16_pretrain.pth.tar"):  # fmt: skip
        (folder / name).touch()  # looked for, and not read by `create`
    plain = PerceptualModel(**dreamsim_args["model_config"]["ensemble"], device="cpu")
    adapted = get_peft_model(plain, LoraConfig(r=2, target_modules=["qkv"]))
    adapted.save_pretrained(folder / "ensemble_lora")


def test_dreamsim_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_dreamsim(monkeypatch, tmp_path)
    extractor = FEATURES.load("dreamsim")(MeasureOptions(weights={"dreamsim": str(tmp_path)}))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (40, 60, 3), dtype=np.uint8) for _ in range(3)]
    together = extractor.features(images)
    assert np.linalg.norm(together, axis=1) == pytest.approx([1, 1, 1], rel=1e-5)
    for image, row in zip(images, together, strict=True):
        assert extractor.features([image])[0] == pytest.approx(row, abs=1e-5)
    assert extractor.identity.startswith("dreamsim-ensemble:0.") and "xxh3:" in extractor.identity
    a, b = (extractor.prepare(Image.fromarray(image)) for image in images[:2])
    with torch.inference_mode():
        distance = float(extractor.network(a, b))
    assert 1 - together[0] @ together[1] == pytest.approx(distance, abs=1e-5)


def test_dreamsim_that_cannot_be_opened_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    def dreamsim(**options: Any) -> Any:
        raise OSError("no route to the host")

    monkeypatch.setitem(__import__("sys").modules, "dreamsim", SimpleNamespace(dreamsim=dreamsim))
    place = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="no route to the host.*--features clip-l-336"):
        FEATURES.load("dreamsim")(MeasureOptions(weights={"dreamsim": str(place)}))
    assert place.is_dir()


def test_missing_packages_name_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = __import__("sys").modules
    monkeypatch.setitem(modules, "dreamsim", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[dreamsim\]"):
        FEATURES.load("dreamsim")(MeasureOptions())
    monkeypatch.setitem(modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[fidelity\]"):
        FEATURES.load("inception")(MeasureOptions())
    monkeypatch.setitem(modules, "torch_fidelity.metric_fid", None)
    with pytest.raises(ValueError, match=r"selfe-bench\[fidelity\]"):
        distances.fid_by_prompt(np.ones((4, 2)), np.arange(4), np.ones((4, 2)))


def test_missing_weights_of_inception_say_how_to_get_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setenv("SELFE_BENCH_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="selfe-bench fetch fidelity"):
        FEATURES.load("inception")(MeasureOptions())
    assert {"cmmd", "fid", "kid", "precision-recall", "diversity"} <= set(MEASURES.names())


def test_inception_gets_whole_uint8_images_and_the_given_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")

    class StandIn(torch.nn.Module):
        def __init__(self, name: str, wanted: list[str], feature_extractor_weights_path: str):
            super().__init__()
            assert wanted == ["2048"] and feature_extractor_weights_path == "inception.pth"

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor]:
            assert pixels.dtype == torch.uint8
            return (pixels.float().mean(dim=(2, 3)),)

    monkeypatch.setattr(module, "FeatureExtractorInceptionV3", StandIn)
    extractor = FEATURES.load("inception")(MeasureOptions(weights={"inception": "inception.pth"}))
    images = [np.full((32, 40, 3), level, np.uint8) for level in (10, 200)]
    assert extractor.features(images).tolist() == [[10] * 3, [200] * 3]
    assert "TensorFlow 1" in extractor.settings["resize"]
