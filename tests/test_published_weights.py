"""The one loader of published weights: what is not whole is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines import registry
from selfe.encoders.flux import load_flux_text
from selfe.published_weights import (
    load_tokenizer,
    load_weights,
    require_complete,
    weights_digest,
)
from tests.helpers.tiny_pipelines import TINY_ARGS, build_tiny, clip_tokenizer

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 3\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_tiny("generic", tmp_path_factory.mktemp("whole") / "sd"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(build_tiny("flux-dev", tmp_path_factory.mktemp("whole") / "flux"))


def tensors(part: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    def apply(folder: Path) -> None:
        (path,) = (folder / part).glob("*.safetensors")
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return apply


def without(ending: str) -> Any:
    return lambda state: {key: v for key, v in state.items() if not key.endswith(ending)}


def content(name: str, change: Callable[[bytes], bytes]) -> Any:
    def apply(folder: Path) -> None:
        (path,) = folder.glob(name)
        path.write_bytes(change(path.read_bytes()))

    return apply


def clip_files(merges: str | None) -> Any:
    """SDXL's layout of a CLIP tokenizer: vocab.json and merges.txt."""

    def apply(folder: Path) -> None:
        part = folder / "tokenizer"
        (part / "tokenizer.json").unlink()
        letters = [chr(code) for code in range(97, 123)]
        pieces = [*letters, *(letter + "</w>" for letter in letters), "ca", "cat</w>", "re"]
        pieces += ["<|startoftext|>", "<|endoftext|>"]
        (part / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
        if merges is not None:
            (part / "merges.txt").write_text(merges)

    return apply


BROKEN: dict[str, tuple[Any, str]] = {
    "unet without a key": (tensors("unet", without("conv_out.weight")), r"unet .*lacks conv_out"),
    "vae without a key": (tensors("vae", without("decoder.conv_out.bias")), r"vae .*lacks decoder"),
    "encoder without a key": (tensors("text_encoder", without("0.self_attn.q_proj.weight")),
                              r"text_encoder .*lacks .*q_proj"),
    "of a parallel model": (tensors("unet", lambda s: {f"module.{k}": v for k, v in s.items()}),
                            'take "module." off the keys'),
    "a key too many": (tensors("vae", lambda s: {**s, "extra": torch.ones(1)}),
                       "holds the unknown extra"),
    "another shape": (tensors("unet", lambda s: {**s, "conv_out.bias": torch.ones(9)}), "unet"),
    "another shape of an encoder": (
        tensors("text_encoder", lambda s: {k: v[..., :-1] if k.endswith("fc1.bias") else v
                                           for k, v in s.items()}),
        r"text_encoder .*of another shape is .*fc1.bias"),
    "bits of fractions as whole numbers": (
        tensors("text_encoder", lambda s: {k: v.half().view(torch.int16) if k.endswith("fc1.bias")
                                           else v for k, v in s.items()}),
        r"text_encoder .*whole numbers in place of fractions are in .*fc1.bias"),
    "yes and no for fractions": (
        tensors("unet", lambda s: {k: v > 0 if k == "conv_out.bias" else v for k, v in s.items()}),
        r"unet .*whole numbers in place of fractions are in conv_out.bias"),
    "weights of two kinds": (
        lambda f: (f / "text_encoder/model.safetensors.index.json").write_text(
            '{"weight_map": {"a": "model.safetensors"}}'),
        "text_encoder holds its weights twice"),
    "a scale that is no number": (
        content("vae/config.json", lambda c: re.sub(rb'("scaling_factor": )[^,]*', rb"\1null", c)),
        "vae has None as the scaling_factor"),
    "a scale that is not finite": (
        content("vae/config.json", lambda c: re.sub(rb'("scaling_factor": )[^,]*', rb"\1NaN", c)),
        "vae has nan as the scaling_factor"),
    "weights cut short": (content("unet/*.safetensors", lambda c: c[:-50]), "unet cannot be"),
    "weights of zeros": (content("unet/*.safetensors", lambda c: bytes(len(c))), "unet cannot be"),
    "pointer to weights": (content("vae/*.safetensors", lambda c: LFS.encode()), "Git LFS"),
    "pointer to words": (content("tokenizer/tokenizer.json", lambda c: LFS.encode()), "Git LFS"),
    "no words": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "tokenizer.json is missing"),
    "empty words": (content("tokenizer/tokenizer.json", lambda c: b""), "is empty"),
    "words cut short": (content("tokenizer/tokenizer.json", lambda c: c[:200]), "cannot be loaded"),
    "no merges": (clip_files(None), "merges.txt is missing"),
    "empty merges": (clip_files(""), "merges.txt is empty"),
    "merges without a line": (clip_files("#version: 0.2\n"), "lacks merges"),
    "config of a list": (content("unet/config.json", lambda c: b"[1]"), "unet cannot be loaded"),
    "index of a list": (content("model_index.json", lambda c: b"[1]"), "model_index.json is dam"),
    "index cut short": (content("model_index.json", lambda c: c[:50]), "model_index.json is dam"),
    "index of numbers": (content("model_index.json", lambda c: b'{"unet": [1, 2]}'), "no class"),
}  # fmt: skip


@pytest.mark.fault(13)
@pytest.mark.parametrize("what", BROKEN)
def test_a_folder_that_is_not_whole_is_refused(what: str, whole: Path, tmp_path: Path) -> None:
    damage, sentence = BROKEN[what]
    folder = tmp_path / "sd"
    shutil.copytree(whole, folder)
    damage(folder)
    with pytest.raises(ValueError, match=sentence) as caught:
        registry.load(f"diffusers:{folder}", model_args=TINY_ARGS)
    assert "\n" not in str(caught.value)


@pytest.mark.fault(13)
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (tensors("text_encoder_2", without("0.SelfAttention.q.weight")), r"lacks .*SelfAttention"),
        (tensors("text_encoder", without("final_layer_norm.bias")), r"text_encoder .*lacks"),
        (
            lambda f: (f / "tokenizer_2/tokenizer.json").unlink(),
            "tokenizer_2/tokenizer.json is",
        ),
        (content("tokenizer_2/tokenizer.json", lambda c: b"{}"), "tokenizer_2 cannot be loaded"),
    ],
)
def test_encoders_that_are_not_whole_are_refused(
    damage: Any, sentence: str, flux: Path, tmp_path: Path
) -> None:
    """Filled with random numbers, two runs would store other features under one digest."""
    folder = tmp_path / "flux"
    for part in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
        shutil.copytree(flux / part, folder / part)
    damage(folder)
    with pytest.raises(ValueError, match=sentence):
        load_flux_text(folder=str(folder))


def test_digests_are_of_what_was_loaded(whole: Path, tmp_path: Path) -> None:
    from transformers import CLIPTextModel

    model = load_weights(CLIPTextModel, whole / "text_encoder")
    again = load_weights(CLIPTextModel, whole / "text_encoder")
    assert weights_digest(model) == weights_digest(again)
    name, parameter = next(iter(again.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] += 1
    assert weights_digest(model) != weights_digest(again), name
    assert weights_digest(model) != weights_digest(model.half())


def test_merges_that_make_every_word_are_whole(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(whole, folder)
    clip_files("#version: 0.2\nc a\nca t</w>\nr e\n")(folder)
    assert load_tokenizer(folder / "tokenizer")("cat", add_special_tokens=False).input_ids == [53]


def test_a_tokenizer_must_fit_its_encoder(tmp_path: Path) -> None:
    class Encoder:
        def __init__(self, rows: int) -> None:
            self.embedding = torch.nn.Embedding(rows, 2)

        def get_input_embeddings(self) -> torch.nn.Embedding:
            return self.embedding

    tokenizer = clip_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    load_tokenizer(tmp_path, model=Encoder(len(tokenizer) + 5))
    for rows in (len(tokenizer) // 2, 2 * len(tokenizer)):
        with pytest.raises(ValueError, match="do not belong together"):
            load_tokenizer(tmp_path, model=Encoder(rows))


def test_keys_that_are_never_read_may_be_missing() -> None:
    require_complete("x", {"missing_keys": ["a"]}, optional=["a"])
    with pytest.raises(ValueError, match="it lacks b"):
        require_complete("x", {"missing_keys": {"a", "b"}}, optional=["a"])
    with pytest.raises(ValueError, match="of another shape is c"):
        require_complete("x", {"mismatched_keys": [("c", (1,), (2,))]})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"guidance_scale": "7,5"}, "must be a number.*decimal mark is a point"),
        ({"guidance_scale": "nan"}, "must be a number"),
        ({"guidance_scale": "1e400"}, "must be a number, not '1e400'"),
        ({"guidance_scale": "true"}, "must be a number"),
        ({"negative_prompt": '["ugly"]'}, "takes one text for all images"),
        ({"negative_prompt": "7"}, "takes one text for all images"),
        ({"negative_prompt": "caf\udce9"}, "is not Unicode text"),
        ({"height": "100000"}, "height must be at most"),
    ],
)
def test_arguments_of_any_pipeline_are_checked(
    arguments: dict[str, str], sentence: str, whole: Path
) -> None:
    with pytest.raises(ValueError, match=sentence):
        registry.load(f"diffusers:{whole}", model_args={**TINY_ARGS, **arguments})


def test_a_negative_prompt_goes_with_every_prompt(whole: Path) -> None:
    def draw(**arguments: str) -> list[Any]:
        model = registry.load(f"diffusers:{whole}", model_args={**TINY_ARGS, **arguments})
        return model.generate(["a cat", "a dog"], 1, [0, 1])

    plain, steered = draw(), draw(negative_prompt="ugly, blurry")
    assert all(image is not None for image in (*plain, *steered))
    assert any((a != b).any() for a, b in zip(plain, steered, strict=True))
    for arguments in ({"clip_skip": "99"}, {"timesteps": "[3, 2]"}):
        with pytest.raises(ValueError, match="cannot draw in 1 steps with") as caught:
            draw(**arguments)
        assert "\n" not in str(caught.value)
