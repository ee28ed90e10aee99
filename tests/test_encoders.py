"""Contracts of every registered codec and text encoder, and FLUX's parts in small."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from selfe.batch import TextCondition
from selfe.data.in_memory import fake_caption
from selfe.encoders.flux import FluxTextEncoder, dtype_on, load_flux_text, load_flux_vae
from selfe.encoders.registry import CODECS, TEXT_ENCODERS
from tests.helpers.tiny_pipelines import build_tiny
from tests.test_pretrained_hub import COMMIT, make_cache

CAPTIONS = ["", "a cat", "a photo of a red circle and a blue ring", "two dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny random FLUX in diffusers' layout."""
    return build_tiny("flux-dev", tmp_path_factory.mktemp("flux"))


@pytest.fixture(scope="module", autouse=True)
def cache(folder: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The hub's cache holds the tiny FLUX, so that the registered names find it."""
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("cache")
    make_cache(home, "black-forest-labs/FLUX.1-dev", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(home))
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        yield home


@pytest.fixture(scope="module")
def text(folder: str) -> FluxTextEncoder:
    return load_flux_text(folder=folder, max_tokens=32).to("cpu")


@pytest.mark.parametrize("name", CODECS.names())
def test_codecs_keep_their_contract(name: str) -> None:
    codec = CODECS.load(name)().to("cpu")
    side = 4 * codec.downsample
    images = torch.rand(2, 3, side, 2 * side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = codec.encode(images)
    assert latents.shape == (2, codec.latent_channels, 4, 8) and latents.dtype == torch.float32
    assert torch.equal(latents, codec.encode(images)), "the posterior mean, not a draw"
    torch.testing.assert_close(codec.encode(images[1:]), latents[1:], atol=1e-5, rtol=1e-5)
    decoded = codec.decode(latents)
    assert decoded.shape == images.shape and decoded.dtype == torch.float32
    assert not decoded.requires_grad and not latents.requires_grad
    assert isinstance(codec.digest, str) and codec.digest


@pytest.mark.parametrize("name", TEXT_ENCODERS.names())
def test_text_encoders_keep_their_contract(name: str) -> None:
    encoder = TEXT_ENCODERS.load(name)().to("cpu")
    condition = encoder.encode(CAPTIONS)
    batch, length, width = condition.tokens.shape
    assert (batch, width) == (len(CAPTIONS), encoder.token_dim)
    assert condition.pooled.shape == (batch, encoder.pooled_dim)
    assert condition.mask.dtype == torch.bool and length <= encoder.max_tokens
    assert condition.mask.any(0).all(), "no column is padding for all"
    assert (condition.mask[:, :-1] >= condition.mask[:, 1:]).all(), "padding is on the right"
    assert condition.mask[0].sum() == 1, "the null prompt is one token"
    again = encoder.encode(CAPTIONS)
    assert torch.equal(condition.tokens, again.tokens)
    assert torch.equal(condition.pooled, again.pooled)
    for i, caption in enumerate(CAPTIONS):
        assert_same_features(encoder.encode([caption]), condition[i : i + 1])
    words = "star " * (encoder.max_tokens + 1)
    assert encoder.count_truncated([*CAPTIONS, words]) == 1
    assert encoder.encode([words]).tokens.shape[1] == encoder.max_tokens
    fake = encoder.encode([fake_caption("a cat"), fake_caption("")])
    assert fake.mask.sum(1)[0] > fake.mask.sum(1)[1] > 1
    assert isinstance(encoder.digest, str) and encoder.digest


def assert_same_features(alone: TextCondition, together: TextCondition) -> None:
    """Equal on the real tokens, up to the rounding of other matrix shapes."""
    real = int(alone.mask.sum())
    assert int(together.mask.sum()) == real == alone.tokens.shape[1]
    torch.testing.assert_close(alone.tokens, together.tokens[:, :real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone.pooled, together.pooled, atol=1e-5, rtol=1e-5)


def test_latents_are_shifted_and_scaled_as_the_config_says(folder: str) -> None:
    codec = load_flux_vae(folder=folder)
    assert (codec.scale, codec.shift) == (0.3611, 0.1159)
    x = torch.rand(1, 3, 16, 16) * 2 - 1
    mean = codec.autoencoder.encode(x).latent_dist.mean
    z = codec.encode(x)
    torch.testing.assert_close(z, (mean - 0.1159) * 0.3611)
    torch.testing.assert_close(codec.decode(z), codec.autoencoder.decode(mean).sample)


def test_features_are_those_of_the_flux_pipeline(folder: str, text: FluxTextEncoder) -> None:
    """Without padding, which the pipeline does not mask, both must agree."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(folder, transformer=None)
    caption = "a red cat"
    ours = text.encode([caption])
    length = ours.tokens.shape[1]
    tokens, pooled, _ = pipeline.encode_prompt(caption, None, max_sequence_length=length)
    torch.testing.assert_close(ours.tokens, tokens, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.pooled, pooled, atol=1e-5, rtol=1e-5)


def test_truncation_is_counted_for_both_encoders(text: FluxTextEncoder) -> None:
    # a letter of these words is a token; one token ends a T5 caption, two enclose a CLIP caption
    t5_length = text.t5_tokenizer(["x" * 20], verbose=False)["input_ids"][0]
    fits = "x" * (20 + text.max_tokens - len(t5_length))
    assert text.count_truncated([fits]) == 0
    assert text.count_truncated([fits + "x"]) == 1
    assert text.count_truncated_by_encoder([fits + "x", "x" * 75, "x" * 76]) == {
        "t5": 3,
        "clip": 1,
    }
    assert text.count_truncated_by_encoder([]) == {"t5": 0, "clip": 0}


def test_a_cut_caption_keeps_its_end_token(text: FluxTextEncoder) -> None:
    """Everything beyond the limit has no effect, and nothing before it is lost."""
    base = "".join("abcdefgh"[i % 8] for i in range(90))
    cut, longer = text.encode([base]), text.encode([base + "zzz"])
    assert torch.equal(cut.tokens, longer.tokens) and torch.equal(cut.pooled, longer.pooled)
    other = text.encode(["z" + base[1:]])
    assert not torch.allclose(cut.tokens, other.tokens)
    assert not torch.allclose(cut.pooled, other.pooled)


def test_padding_rows_are_zero(text: FluxTextEncoder) -> None:
    condition = text.encode(["a", "a longer one"])
    assert condition.tokens[0][~condition.mask[0]].abs().max() == 0


@pytest.mark.parametrize("limit", [0, 513])
def test_impossible_token_limits(folder: str, limit: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 512"):
        load_flux_text(folder=folder, max_tokens=limit)


def test_identity_follows_repository_files_and_limit(folder: str, tmp_path: Path) -> None:
    published = f"black-forest-labs/FLUX.1-dev@{COMMIT} weights xxh3:"
    assert load_flux_vae().digest.startswith(published)
    text = load_flux_text().digest
    assert text.startswith(published) and text.endswith("t5:256 clip:77")
    local = load_flux_vae(folder=folder).digest
    assert local.startswith("sha256:")
    shutil.copytree(Path(folder) / "vae", tmp_path / "vae")  # the other parts play no role
    assert load_flux_vae(folder=str(tmp_path)).digest == local
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert load_flux_vae(folder=str(tmp_path)).digest != local


@pytest.mark.fault(25)
@pytest.mark.parametrize(
    ("load", "missing", "pattern"),
    [
        (load_flux_vae, "vae/config.json", "'vae/*'"),
        (load_flux_text, "tokenizer/config.json", "'text_encoder_2/*'"),
    ],
)
def test_a_cold_cache_is_explained(load: Any, missing: str, pattern: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        load(cache_dir=str(tmp_path))
    message = str(caught.value)
    assert missing in message and pattern in message
    assert "hf download black-forest-labs/FLUX.1-dev" in message
    assert "accept the licence at https://huggingface.co/black-forest-labs/FLUX.1-dev" in message
    with pytest.raises(ValueError, match="--revision abc"):
        load(cache_dir=str(tmp_path), revision="abc")


@pytest.mark.fault(25)
def test_a_missing_shard_is_named(folder: str, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "flux")
    (tmp_path / "flux" / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"text_encoder_2/\*\.safetensors is missing"):
        load_flux_text(folder=str(tmp_path / "flux"))


def test_accelerators_compute_in_half_precision() -> None:
    assert dtype_on("cpu") == torch.float32
    assert dtype_on("cuda:1") == torch.bfloat16
