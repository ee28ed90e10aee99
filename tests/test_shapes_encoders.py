"""The shapes world's codec and text encoder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from selfe.data.shapes_world import ShapesWorld
from selfe.encoders.shapes import ASSETS, ShapesTextEncoder, ShapesVAE
from selfe.packaged_weights import MANIFEST

PRESETS = [
    p
    for p in ("grid", "free")
    if f"shapes_vae_{p}.safetensors" in json.loads((ASSETS / MANIFEST).read_text())
]


def images(preset: str, count: int, stream: int = 900) -> torch.Tensor:
    world = ShapesWorld(preset)
    batch = world.render_batch([world.training_example(stream, i) for i in range(count)])
    return torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1.0


def test_every_preset_has_weights():
    assert PRESETS == ["grid", "free"]


@pytest.mark.parametrize("preset", PRESETS)
def test_latents_are_normalised_and_round_trips_are_close(preset):
    vae, x = ShapesVAE(preset), images(preset, 64)
    z = vae.encode(x)
    assert z.shape == (64, 4, x.shape[2] // 4, x.shape[3] // 4) and z.dtype == torch.float32
    assert z.mean((0, 2, 3)).abs().max() < 0.2
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.2
    mse = (vae.decode(z).clamp(-1, 1) - x).square().mean()
    assert 10 * torch.log10(4 / mse) > 36
    assert torch.equal(z[:4], vae.encode(x[:4])) or torch.allclose(
        z[:4], vae.encode(x[:4]), atol=1e-5
    )


def test_shipped_files_are_small():
    folders = (ASSETS, ASSETS.parents[1] / "evals" / "assets")
    assert sum(p.stat().st_size for f in folders for p in f.glob("shapes_*.safetensors")) < 2e6


def test_tampered_weights_are_refused(tmp_path):
    for name in ("shapes_vae_grid.safetensors", MANIFEST):
        shutil.copy(ASSETS / name, tmp_path / name)
    ShapesVAE("grid", folder=tmp_path)
    path = tmp_path / "shapes_vae_grid.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="do not match the sha256"):
        ShapesVAE("grid", folder=tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="missing"):
        ShapesVAE("grid", folder=tmp_path)


def test_text_shapes_masks_and_null():
    encoder = ShapesTextEncoder()
    captions = ["", "a photo of a red circle", "a photo of an orange ring and a blue star"]
    condition = encoder.encode(captions)
    assert condition.tokens.shape == (3, 11, encoder.token_dim)
    assert condition.mask.sum(1).tolist() == [1, 7, 11]
    assert (condition.mask[:, :-1] >= condition.mask[:, 1:]).all(), "padding is on the right"
    assert condition.pooled.shape == (3, encoder.pooled_dim)
    assert torch.allclose(condition.pooled.var(1, correction=0), torch.ones(3), atol=1e-5)
    alone = encoder.encode(captions[1:2])
    assert torch.equal(alone.tokens[0], condition.tokens[1, :7])
    assert torch.equal(alone.pooled[0], condition.pooled[1])


def test_word_vectors_are_the_same_everywhere():
    """Pinned numbers: a changed generator would silently change what a checkpoint was told."""
    vector = ShapesTextEncoder()._vector("circle")
    assert torch.allclose(vector.mean(), torch.tensor(0.0), atol=1e-6)
    assert torch.allclose(vector.var(correction=0), torch.tensor(1.0), atol=1e-5)
    assert vector[:3].tolist() == pytest.approx(PINNED, abs=1e-5)


PINNED = [-1.508583, -0.179661, 1.283174]


def test_order_matters_to_tokens_and_same_words_differ_by_place_only():
    encoder = ShapesTextEncoder()
    left, right = encoder.encode(["a star and a ring", "a ring and a star"])[:].tokens
    assert not torch.equal(left, right)
    words = encoder.encode(["star star"]).tokens[0]
    assert torch.allclose(words[1] - encoder._places[1], words[2] - encoder._places[2], atol=1e-6)


def test_longest_captions_fit_and_truncation_is_counted():
    encoder = ShapesTextEncoder()
    longest = "fake image a photo of an orange triangle and an orange diamond"
    assert encoder.count_truncated([longest, "x " * 23, "x " * 24]) == 1
    assert encoder.encode(["x " * 40]).tokens.shape[1] == encoder.max_tokens
