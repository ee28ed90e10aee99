"""Preference models: tiny CLIPs and a tiny BLIP against second implementations.

Longer than other files: BLIP is written down a second time here, from its published names.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from evals.images import sample_path, scan_folder, write_metadata, write_png
from evals.measure import DrawnImages, MeasureOptions
from evals.preference import image_reward
from evals.preference.clip import FitAndPad, OpenClip, load_open_clip
from evals.preference.image_reward import (
    DEVIATION,
    MEAN,
    ImageReward,
    RewardNetwork,
    load_reward,
)
from evals.registry import open_measure
from evals.suites.base import Suite
from tests.helpers.tiny_pipelines import clip_tokenizer

PROMPTS = ["a red cow", "two blue cows in a boat"]


def images() -> list[np.ndarray]:
    """Not square, so that resizing and cutting count."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (24, 37, 3), dtype=np.uint8) for _ in PROMPTS]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    folder, tokenizer = tmp_path_factory.mktemp("clip"), clip_tokenizer()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    small |= {"num_attention_heads": 2, "projection_dim": 8}
    text = {**small, "vocab_size": len(tokenizer), "max_position_embeddings": 77}
    text |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    vision = {**small, "image_size": 16, "patch_size": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 16}
    prepare = CLIPImageProcessor(size=size, crop_size={"height": 16, "width": 16})
    CLIPProcessor(prepare, tokenizer).save_pretrained(folder)
    return folder


def second_cosines(folder: Path, prompts: list[str]) -> tuple[Tensor, float]:
    """From the two towers and projections by themselves, one picture at a time, prepared as
    CLIPScore's script does: torchvision's steps on a Pillow image."""
    from torchvision import transforms
    from transformers import AutoTokenizer, CLIPModel

    from evals.distribution.features import CLIP_MEAN, CLIP_STD

    model = CLIPModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prepare = transforms.Compose(
        [
            transforms.Resize(16, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(16),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    cosines = []
    with torch.inference_mode():
        for image, prompt in zip(images(), prompts, strict=True):
            pixels = prepare(Image.fromarray(image))[None]
            tokens = tokenizer([prompt], return_tensors="pt").input_ids
            seen = model.visual_projection(model.vision_model(pixels).pooler_output)
            read = model.text_projection(model.text_model(tokens).pooler_output)
            cosines.append(F.cosine_similarity(seen, read)[0])
        return torch.stack(cosines), float(model.logit_scale.exp())


def test_pickscore_is_temperature_times_cosine(clip_folder: Path) -> None:
    measure: Any = open_measure(
        "pickscore", MeasureOptions(weights={"pickscore": str(clip_folder)})
    )
    cosine, temperature = second_cosines(clip_folder, PROMPTS)
    found = measure.model.score(images(), PROMPTS)
    assert found == pytest.approx((temperature * cosine).tolist(), rel=1e-4)
    assert measure.model.identity.startswith("pickscore:sha256:")
    assert (
        measure.model.settings["resize"] == "shorter side to 16 pixels, Pillow bicubic, centre cut"
    )
    assert measure.model.notes == ()  # a folder is known by its content


def test_pixels_are_resized_to_the_bit_as_in_the_published_script(clip_folder: Path) -> None:
    """transformers' own default rounds some pixels differently."""
    from torchvision import transforms

    from evals.distribution.features import CLIP_MEAN, CLIP_STD
    from selfe.published_weights import load_processor

    picture = Image.fromarray(
        np.random.default_rng(2).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    )
    steps = [transforms.Resize(16, interpolation=transforms.InterpolationMode.BICUBIC)]
    steps += [transforms.CenterCrop(16), transforms.ToTensor()]
    expected = transforms.Compose([*steps, transforms.Normalize(CLIP_MEAN, CLIP_STD)])(picture)
    processor = load_processor(clip_folder, backend="pil")
    found = processor(images=[picture], return_tensors="pt").pixel_values[0]
    assert torch.allclose(torch.as_tensor(found), expected, atol=1e-6)


def test_clipscore_is_its_formula_with_its_prefix(clip_folder: Path) -> None:
    measure: Any = open_measure(
        "clipscore", MeasureOptions(weights={"clipscore": str(clip_folder)})
    )
    cosine, _ = second_cosines(clip_folder, ["A photo depicts " + p for p in PROMPTS])
    found = measure.model.score(images(), PROMPTS)
    assert found == pytest.approx((2.5 * cosine.clamp(min=0)).tolist(), rel=1e-4, abs=1e-6)


def tiny_open_clip() -> nn.Module:
    import open_clip

    vision = {"image_size": 16, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text)


def test_hps_is_the_cosine_and_its_weights_must_fit(tmp_path: Path) -> None:
    import open_clip

    model = tiny_open_clip()
    path = tmp_path / "hps.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)
    again = load_open_clip(tiny_open_clip(), path)
    prepare = FitAndPad(16, open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    tokenizer = open_clip.get_tokenizer("ViT-H-14")
    judge = OpenClip("hpsv2.1", "tiny", again, tokenizer, prepare)
    with torch.inference_mode():
        pixels = torch.stack([prepare(Image.fromarray(image)) for image in images()])
        seen, read = again.encode_image(pixels), again.encode_text(tokenizer(PROMPTS))
    assert judge.score(images(), PROMPTS) == pytest.approx(
        F.cosine_similarity(seen, read).tolist(), rel=1e-4
    )
    for change in ("lacks", "unknown"):
        state = dict(model.state_dict())
        if change == "lacks":
            state.pop("logit_scale")
        else:
            state["extra"] = torch.zeros(1)
        torch.save({"state_dict": state}, path)
        with pytest.raises(ValueError, match="does not fit"):
            load_open_clip(tiny_open_clip(), path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="not a file of weights"):
        load_open_clip(tiny_open_clip(), path)


@pytest.mark.parametrize("size", [(48, 24), (24, 48), (40, 40), (31, 50)])
def test_hps_sees_the_whole_image_padded_with_black(size: tuple[int, int]) -> None:
    """By Pillow, channel by channel in floating point."""
    width, height = size
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    found = FitAndPad(16, mean, std)(Image.fromarray(pixels)).numpy()
    scale = 16 / max(size)
    w, h = round(width * scale), round(height * scale)
    for channel in range(3):
        plane = Image.fromarray(pixels[..., channel].astype(np.float32) / 255)
        square = np.zeros((16, 16), np.float32)
        top, left = (16 - h) // 2, (16 - w) // 2
        square[top : top + h, left : left + w] = plane.resize((w, h), Image.Resampling.BICUBIC)
        expected = (square - mean[channel]) / std[channel]
        assert np.allclose(found[channel], expected, atol=1e-4), channel


# ------------------------------------------------------------------------------ ImageReward

WIDTH, SEEN, HEADS, WORDS = 16, 24, 2, 100


def tiny_reward() -> RewardNetwork:
    vision = {"hidden_size": SEEN, "intermediate_size": 32, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": HEADS, "image_size": 16, "patch_size": 8}
    text = {"vocab_size": WORDS, "hidden_size": WIDTH, "encoder_hidden_size": SEEN}
    text |= {"intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": HEADS}
    return RewardNetwork(
        {**vision, "layer_norm_eps": 1e-6}, {**text, "max_position_embeddings": 40}
    ).eval()


def published_state() -> dict[str, Tensor]:
    """Random weights under the published names, written down from the published network."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=generator)

    state: dict[str, Tensor] = {}

    def linear(name: str, a: int, b: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = draw(b, a), draw(b)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = 1 + draw(width), draw(width)

    eye = "blip.visual_encoder."
    state[eye + "cls_token"], state[eye + "pos_embed"] = draw(1, 1, SEEN), draw(1, 5, SEEN)
    state[eye + "patch_embed.proj.weight"] = draw(SEEN, 3, 8, 8)
    state[eye + "patch_embed.proj.bias"] = draw(SEEN)
    for k in range(2):
        block = f"{eye}blocks.{k}."
        norm(block + "norm1", SEEN)
        linear(block + "attn.qkv", SEEN, 3 * SEEN)
        linear(block + "attn.proj", SEEN, SEEN)
        norm(block + "norm2", SEEN)
        linear(block + "mlp.fc1", SEEN, 32)
        linear(block + "mlp.fc2", 32, SEEN)
    norm(eye + "norm", SEEN)
    read = "blip.text_encoder."
    state[read + "embeddings.position_ids"] = torch.arange(40)[None]
    state[read + "embeddings.word_embeddings.weight"] = draw(WORDS, WIDTH)
    state[read + "embeddings.position_embeddings.weight"] = draw(40, WIDTH)
    norm(read + "embeddings.LayerNorm", WIDTH)
    for k in range(2):
        layer = f"{read}encoder.layer.{k}."
        for kind, width in (("attention", WIDTH), ("crossattention", SEEN)):
            linear(layer + kind + ".self.query", WIDTH, WIDTH)
            linear(layer + kind + ".self.key", width, WIDTH)
            linear(layer + kind + ".self.value", width, WIDTH)
            linear(layer + kind + ".output.dense", WIDTH, WIDTH)
            norm(layer + kind + ".output.LayerNorm", WIDTH)
        linear(layer + "intermediate.dense", WIDTH, 32)
        linear(layer + "output.dense", 32, WIDTH)
        norm(layer + "output.LayerNorm", WIDTH)
    widths = (WIDTH, *image_reward.HEAD_WIDTHS)
    for place, a, b in zip((0, 2, 4, 6, 7), widths[:-1], widths[1:], strict=True):
        linear(f"mlp.layers.{place}", a, b)
    return state


def second_reward(state: dict[str, Tensor], pixels: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """BLIP written with nothing but matrix products, from the published names."""

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
        scores = heads(q) @ heads(k).transpose(-1, -2) / heads(q).shape[-1] ** 0.5
        if keep is not None:
            scores = scores.masked_fill(~keep[:, None, None].bool(), -torch.inf)
        return (scores.softmax(-1) @ heads(v)).transpose(1, 2).flatten(2)

    eye, read = "blip.visual_encoder.", "blip.text_encoder."
    patches = F.conv2d(
        pixels, state[eye + "patch_embed.proj.weight"], state[eye + "patch_embed.proj.bias"], 8
    )
    x = patches.flatten(2).transpose(1, 2)
    x = (
        torch.cat([state[eye + "cls_token"].expand(len(x), -1, -1), x], 1)
        + state[eye + "pos_embed"]
    )
    for k in range(2):
        block = f"{eye}blocks.{k}."
        q, key, v = linear(block + "attn.qkv", norm(block + "norm1", x, 1e-6)).chunk(3, -1)
        x = x + linear(block + "attn.proj", attend(q, key, v))
        inner = F.gelu(linear(block + "mlp.fc1", norm(block + "norm2", x, 1e-6)))
        x = x + linear(block + "mlp.fc2", inner)
    seen = norm(eye + "norm", x, 1e-6)
    places = state[read + "embeddings.position_embeddings.weight"][: tokens.shape[1]]
    y = state[read + "embeddings.word_embeddings.weight"][tokens] + places
    y = norm(read + "embeddings.LayerNorm", y, 1e-12)
    for k in range(2):
        layer = f"{read}encoder.layer.{k}."
        for kind, other, keep in (("attention", None, mask), ("crossattention", seen, None)):
            source, name = y if other is None else other, layer + kind
            found = attend(
                linear(name + ".self.query", y),
                linear(name + ".self.key", source),
                linear(name + ".self.value", source),
                keep,
            )
            y = norm(name + ".output.LayerNorm", linear(name + ".output.dense", found) + y, 1e-12)
        inner = F.gelu(linear(layer + "intermediate.dense", y))
        y = norm(layer + "output.LayerNorm", linear(layer + "output.dense", inner) + y, 1e-12)
    z = y[:, 0]
    for place in (0, 2, 4, 6, 7):
        z = linear(f"mlp.layers.{place}", z)
    return (z[:, 0] - MEAN) / DEVIATION


def test_image_reward_equals_blip_written_down_from_the_published_names(tmp_path: Path) -> None:
    state = published_state()
    path = tmp_path / "ImageReward.pt"
    torch.save(state, path)
    network = load_reward(tiny_reward(), path)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, 16, 16, generator=generator)
    tokens = torch.randint(1, WORDS, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[0, 5:] = 0  # padding
    with torch.inference_mode():
        found = network(pixels, tokens, mask)
    assert torch.allclose(found, second_reward(state, pixels, tokens, mask), atol=1e-4, rtol=1e-4)


def test_image_reward_refuses_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "ImageReward.pt"
    for change in ("lacks", "unknown"):
        state = published_state()
        if change == "lacks":
            state.pop("blip.visual_encoder.norm.bias")
        else:
            state["blip.other"] = torch.zeros(1)
        torch.save(state, path)
        with pytest.raises(ValueError, match="does not fit ImageReward"):
            load_reward(tiny_reward(), path)


def test_the_published_sizes_are_those_of_blip_large(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        network = image_reward.large_network()
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert shapes["vision.embeddings.position_embedding"] == (1, 197, 1024)
    assert shapes["text.embeddings.word_embeddings.weight"] == (30524, 768)
    assert shapes["text.encoder.layer.11.crossattention.self.key.weight"] == (768, 1024)
    assert [shapes[f"head.{k}.weight"] for k in (0, 4)] == [(1024, 768), (1, 16)]


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
    pieces += [f"##{letter}" for letter in string.ascii_lowercase]
    return BertTokenizer(vocab={piece: k for k, piece in enumerate(pieces)})


def test_scores_are_kept_image_by_image_and_clustered_by_prompt(tmp_path: Path) -> None:
    """A measure end to end: drawn folder, stored scores, interval; a second run asks nothing."""
    from evals.preference.base import PreferenceMeasure

    suite = Suite("toy@1", [{"tag": "t", "prompt": p} for p in PROMPTS], "", "")
    for prompt_id, record in enumerate(suite.records):
        write_metadata(tmp_path, prompt_id, record)
        for sample_id, image in enumerate(images()):
            write_png(sample_path(tmp_path, prompt_id, sample_id), image)
    drawn = DrawnImages(suite, scan_folder(tmp_path, suite.records, 2), tmp_path)
    path = tmp_path / "ImageReward.pt"
    torch.save(published_state(), path)
    model = ImageReward(load_reward(tiny_reward(), path), bert_tokenizer(), "tiny")
    found = PreferenceMeasure(model, MeasureOptions()).measure(drawn, lambda done, total: None)
    scores = {(p, s): v for p, s, v in found.per_image}
    assert found.values["mean"].mean == pytest.approx(np.mean(list(scores.values())))
    for (prompt, sample), value in scores.items():
        alone = model.score([images()[sample]], [PROMPTS[prompt]])[0]
        assert value == pytest.approx(alone, rel=1e-4, abs=1e-4)

    class Refuses:
        notes = ("nobody named a version",)
        name, identity, settings = model.name, model.identity, model.settings

        def score(self, pictures: Any, prompts: Any) -> list[float]:
            raise AssertionError("asked again")

    again = PreferenceMeasure(Refuses(), MeasureOptions()).measure(drawn, lambda done, total: None)
    assert again.values == found.values and again.per_image == found.per_image
    assert again.notes == ("nobody named a version",)


def _score_and_die(folder: Path, out: Path, at: int) -> None:
    _score(folder, out, die_at=at)


def _score(folder: Path, out: Path, die_at: int | None = None) -> tuple[Any, int]:
    """Every image's first pixel, and how many images were looked at."""
    from evals.preference.base import PreferenceMeasure

    class FirstPixel:
        name, identity, settings = "first-pixel", "first-pixel@1", {"score": "brightness"}
        looked = 0

        def score(self, pictures: Any, prompts: Any) -> list[float]:
            if self.looked == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.looked += len(pictures)
            return [float(picture[0, 0, 0]) for picture in pictures]

    records = [{"tag": "t", "prompt": prompt} for prompt in PROMPTS]
    suite, model = Suite("toy@1", records, "", ""), FirstPixel()
    drawn = DrawnImages(suite, scan_folder(folder, records, 2), out)
    options = MeasureOptions(batch_size=1)
    return PreferenceMeasure(model, options).measure(drawn, lambda done, total: None), model.looked


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_killed_measure_continues_to_the_same_bytes(tmp_path: Path, at: int) -> None:
    folder = tmp_path / "images"
    for prompt_id, prompt in enumerate(PROMPTS):
        write_metadata(folder, prompt_id, {"tag": "t", "prompt": prompt})
        for sample_id, image in enumerate(images()):
            write_png(sample_path(folder, prompt_id, sample_id), image)
    whole, looked = _score(folder, tmp_path / "whole")
    assert looked == 4
    context = multiprocessing.get_context("fork")
    child = context.Process(target=_score_and_die, args=(folder, tmp_path / "killed", at))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    resumed, looked = _score(folder, tmp_path / "killed")
    assert looked == 4 - at and resumed == whole
    (one,), (other,) = (
        list((tmp_path / name).rglob("scores-*.jsonl")) for name in ("whole", "killed")
    )
    assert one.read_bytes() == other.read_bytes()


def test_a_version_of_weights_is_named_recorded_or_missed(tmp_path: Path) -> None:
    from evals.pretrained import HPS, PICKSCORE, find_file, find_network, not_pinned, split_revision
    from selfe.hub import MissingFilesError, Source

    commit = "0" * 40
    assert split_revision(f"owner/name@{commit}") == ("owner/name", commit)
    assert split_revision("owner/name") == ("owner/name", "")
    with_at = tmp_path / "clip@2"
    with_at.mkdir()
    assert split_revision(str(with_at)) == (str(with_at), "")
    cached = Source(tmp_path, "owner/name", commit)
    (note,) = not_pinned("owner/name", cached)
    assert commit in note and "nobody named a version of owner/name" in note
    assert not_pinned(f"owner/name@{commit}", cached) == []
    assert not_pinned("owner/name", cached, commit) == []
    assert not_pinned(PICKSCORE, Source(tmp_path, PICKSCORE, commit)) == []  # named here
    assert not_pinned(str(with_at), Source(with_at)) == []  # known by its content
    for find in (
        lambda: find_network(f"owner/name@{commit}", cache_dir="/nowhere"),
        lambda: find_file(f"owner/name@{commit}", HPS, "hps.pt"),
    ):
        with pytest.raises(MissingFilesError, match=f"owner/name --revision {commit}"):
            find()
    with pytest.raises(ValueError, match="hps.pt is no file, and no OWNER/NAME@COMMIT"):
        find_file(str(tmp_path / "hps.pt"), HPS, "hps.pt")
    (tmp_path / "own.pt").write_bytes(b"weights")
    path, identity, notes = find_file(str(tmp_path / "own.pt"), HPS, "hps.pt")
    assert path == tmp_path / "own.pt" and identity.startswith("sha256:") and notes == []
