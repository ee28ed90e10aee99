"""TiM's parts: what is loaded, how text is cut, when guidance acts. The numbers of the network are
checked against a transcription in test_tim_transcription.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines import registry
from baselines.pretrained.tim.model import group_by_length
from baselines.pretrained.tim.network import TRAINING_ONLY, TiMTransformer, load_published
from baselines.pretrained.tim.sampler import count_evaluations, sample_tim, transition_times
from baselines.pretrained.tim.text import MAX_TOKENS, GemmaFeatures
from tests.helpers.tiny_pipelines import TINY_ARGS, build_tiny

TINY = {
    "in_channels": 4,
    "width": 16,
    "depth": 1,
    "num_heads": 2,
    "text_dim": 8,
    "modulation_dim": 8,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_tiny("tim", tmp_path_factory.mktemp("tim"))


def load(folder: str, **arguments: Any) -> Any:
    return registry.load("tim", local_path=folder, model_args={**TINY_ARGS, **arguments})


def test_published_size() -> None:
    with torch.device("meta"):
        network = TiMTransformer()
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 865.0
    assert set(TRAINING_ONLY).isdisjoint(network.state_dict())
    for key in (
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "delta_embedder.mlp.2.bias",
        "y_embedder.norm.weight",
        "y_embedder.mlp.fc1_g.weight",
        "blocks.27.attn.qkv_d.weight",
        "blocks.0.cross_attn.kv.bias",
        "blocks.0.adaLN_modulation.fc2.weight",
        "final_layer.linear.weight",
        "final_layer.adaLN_modulation.fc1_x.bias",
    ):
        assert key in network.state_dict()
    assert "blocks.0.attn.qkv_d.bias" not in network.state_dict()


def test_every_key_is_accounted_for() -> None:
    network = TiMTransformer(**TINY)
    state = network.state_dict()
    projector = {key: torch.zeros(1) for key in TRAINING_ONLY}
    fresh = TiMTransformer(**TINY)
    assert load_published(fresh, {**state, **projector}) == len(TRAINING_ONLY)
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, state[key])
    broken: list[tuple[dict[str, Tensor], str]] = [
        ({k: v for k, v in state.items() if k != "final_layer.linear.bias"}, "missing: final_la"),
        ({**state, "pos_embed": torch.zeros(1)}, "unknown: pos_embed"),
        ({**state, "x_embedder.proj.bias": torch.zeros(3)}, "another shape: x_embedder.proj.bias"),
        ({**state, "projector.0.bias": torch.zeros(1)}, "half a projector: projector.0.weight"),
    ]
    for bad, sentence in broken:
        with pytest.raises(ValueError, match=sentence):
            load_published(TiMTransformer(**TINY), bad)


@pytest.mark.fault(12)
def test_no_code_runs_from_a_weight_file(tmp_path: Path) -> None:
    folder = Path(build_tiny("tim", tmp_path / "tim"))
    witness = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (witness,)

    torch.save({"x": Payload()}, folder / "t2i_model.bin")
    with pytest.raises(ValueError, match="t2i_model.bin cannot be read"):
        load(str(folder))
    assert not witness.exists()


def test_safetensors_are_taken_too(folder: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    other = Path(build_tiny("tim", tmp_path / "tim"))
    state = torch.load(other / "t2i_model.bin", weights_only=True)
    (other / "t2i_model.bin").unlink()
    save_file(
        {key: value.contiguous() for key, value in state.items()}, other / "t2i_model.safetensors"
    )
    expected = load(folder).generate(["a cat"], 2, [1])
    assert np.array_equal(load(str(other)).generate(["a cat"], 2, [1])[0], expected[0])


def test_times_are_rounded_through_bfloat16() -> None:
    assert transition_times(4) == [1.0, 0.75, 0.5, 0.25, 0.0]
    times = transition_times(50)
    assert len(times) == 51 and times[1] == 0.98046875
    assert [count_evaluations(n, 2.5) for n in (1, 4, 64)] == [1, 7, 127]
    assert count_evaluations(4, 1.0) == 4


class Recorder:
    """A field that depends on everything it is given, and writes down when it was asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float, float, torch.dtype]] = []

    def __call__(self, x: Tensor, t: Tensor, r: Tensor, text: Tensor) -> Tensor:
        self.calls.append((x.shape[0], t[0].item(), r[0].item(), x.dtype))
        level = text.mean((1, 2))[:, None, None, None]
        return x * 0.5 + level + (t - r)[:, None, None, None]


def test_the_sampler_is_guided_but_for_the_first_step() -> None:
    torch.manual_seed(0)
    noise = torch.randn(2, 4, 3, 3)
    text, null = torch.randn(2, 5, 8), torch.randn(1, 5, 8)
    field = Recorder()
    drawn = sample_tim(field, noise, text, null, 4, 2.5)
    assert [call[:3] for call in field.calls] == [
        (2, 1.0, 0.75),
        (4, 0.75, 0.5),
        (4, 0.5, 0.25),
        (4, 0.25, 0.0),
    ]
    x = noise.double()
    level, null_level = text.mean((1, 2)).double(), null.mean().double()
    for step in range(4):
        guided = level if step == 0 else null_level + 2.5 * (level - null_level)
        x = x - 0.25 * (0.5 * x + guided[:, None, None, None] + 0.25)
    assert drawn.dtype == torch.float64
    assert torch.allclose(drawn, x, atol=1e-6)


def test_the_state_is_kept_in_float64_whatever_the_network_runs_in() -> None:
    field = Recorder()
    noise = torch.randn(1, 4, 2, 2, dtype=torch.bfloat16)
    text = torch.zeros(1, 1, 8, dtype=torch.bfloat16)
    sample_tim(field, noise, text, text, 2)
    assert {call[3] for call in field.calls} == {torch.bfloat16}


def test_one_step_is_not_guided(folder: str) -> None:
    strong, weak = load(folder, guidance_scale=9.0), load(folder, guidance_scale=1.0)
    assert np.array_equal(
        strong.generate(["a cat"], 1, [3])[0], weak.generate(["a cat"], 1, [3])[0]
    )
    two = strong.generate(["a cat"], 2, [3])[0], weak.generate(["a cat"], 2, [3])[0]
    assert not np.array_equal(*two)


def test_grid_coordinates_are_the_published_ones() -> None:
    """On a grid of h rows and w columns, token n sits at (n mod h, n // h), whatever w is."""
    from baselines.pretrained.tim.network import rope_tables

    h, w, head_dim = 2, 3, 8
    cos, sin = rope_tables(h, w, head_dim, torch.zeros(1))
    assert cos.shape == (6, 8)
    for n in range(6):
        first, second = n % h, n // h
        expected = [first, first, first / 100, first / 100]
        expected += [second, second, second / 100, second / 100]
        assert torch.allclose(torch.atan2(sin[n], cos[n]), torch.tensor(expected), atol=1e-6)


def test_published_text_cut_depends_on_the_batch_and_ours_does_not(folder: str) -> None:
    short, long = "a cat", "a photo of three very large cats on a very small bench"
    own, batch = load(folder), load(folder, text_length="batch")
    assert own.facts.sampling["text_length"] == "own"
    assert batch.facts.sampling["text_length"] == "batch"
    alone = own.generate([short], 4, [1])[0]
    assert np.array_equal(batch.generate([short], 4, [1])[0], alone)
    beside = own.generate([short, long], 4, [1, 2])[0]
    assert np.abs(beside.astype(int) - alone.astype(int)).max() <= 2
    assert np.abs(batch.generate([short, long], 4, [1, 2])[0].astype(int) - alone).max() > 2
    with pytest.raises(ValueError, match="text_length must be own or batch"):
        load(folder, text_length="longest")


def test_prompts_of_one_length_share_a_call() -> None:
    assert group_by_length([3, 5, 3], "own") == {3: [0, 2], 5: [1]}
    assert group_by_length([3, 5, 3], "batch") == {5: [0, 1, 2]}


def test_text_is_padded_right_and_padding_attends_to_nothing(folder: str) -> None:
    text = GemmaFeatures.load(
        Path(folder, "text_encoder"), Path(folder, "tokenizer"), torch.float32
    )
    states, lengths = text.encode(["a cat", ""])
    assert states.shape == (2, MAX_TOKENS, 16)
    # A start token, then letters and word marks; the null prompt is the start token alone.
    assert lengths == [6, 1]
    # What a padded position sees is nothing but itself: the same after any prompt.
    assert torch.allclose(states[0, 6:], states[1, 6:], atol=1e-6)
    # Real positions do attend: the start alone is the same, what follows differs by prompt.
    other, _ = text.encode(["b cat"])
    assert torch.allclose(other[0, 0], states[0, 0], atol=1e-6)
    assert not torch.allclose(other[0, 5], states[0, 5], atol=1e-4)


def test_real_positions_are_untouched_by_padding(folder: str) -> None:
    """The states of a prompt equal those of the unpadded prompt in plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = GemmaFeatures.load(
        Path(folder, "text_encoder"), Path(folder, "tokenizer"), torch.float32
    )
    states, (length,) = text.encode(["two red cats"])
    tokenizer = AutoTokenizer.from_pretrained(Path(folder, "tokenizer"))
    model = AutoModelForCausalLM.from_pretrained(Path(folder, "text_encoder")).eval()
    tokens = tokenizer("two red cats", return_tensors="pt")
    with torch.no_grad():
        plain = model(**tokens, output_hidden_states=True).hidden_states[-1]
    assert plain.shape[1] == length
    assert torch.allclose(states[:, :length], plain, atol=1e-5)
