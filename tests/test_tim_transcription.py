"""TiM's network, text and sampler against a slow transcription by a second reader.

Each of a list of known mistakes, put into the transcription, must be told apart: where it is not,
the comparison would not see it in the adapter either.

Longer than other files by the list of known mistakes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from baselines import registry
from baselines.pretrained.tim.network import TiMTransformer
from baselines.pretrained.tim.sampler import sample_tim, transition_times
from tests.helpers import tim_transcription
from tests.helpers.tim_transcription import Array, Sizes, Weights
from tests.helpers.tiny_pipelines import TINY_ARGS, build_tiny

CONFIG = {
    "in_channels": 3,
    "width": 24,
    "depth": 2,
    "num_heads": 3,
    "text_dim": 10,
    "modulation_dim": 8,
}
SIZES = Sizes(heads=3, depth=2)
SAME = 1e-6
"""Largest relative difference that counts as equal. The network runs in float64 here, but its
sinusoids are float32, as published; 1.4e-7 was the largest difference seen."""
TOLD_APART = 1e-4
SHAPES = [(3, 5), (4, 2), (3, 3)]
TIMES = [(1.0, 0.0), (1.0, 0.75), (0.75, 0.25), (0.02, 0.0), (0.5, 0.5)]


@pytest.fixture(scope="module")
def network() -> TiMTransformer:
    torch.manual_seed(0)
    network = TiMTransformer(**CONFIG).double().eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network


def weights_of(network: TiMTransformer) -> Weights:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def draw_inputs(shape: tuple[int, int], tokens: int = 4) -> tuple[Array, Array, Array]:
    """A latent and the features of a prompt and of the null prompt."""
    rng = np.random.default_rng([*shape, tokens])
    latent = rng.standard_normal((CONFIG["in_channels"], *shape))
    text, null = rng.standard_normal((2, tokens, CONFIG["text_dim"]))
    return latent, text, null


def run_network(network: TiMTransformer, latent: Array, t: float, r: float, text: Array) -> Array:
    times = torch.tensor([[t], [r]], dtype=torch.float64)
    field: torch.Tensor = network(
        torch.from_numpy(latent)[None], times[0], times[1], torch.from_numpy(text)[None]
    )
    return field[0].numpy()


def gap(a: Array, b: Array) -> float:
    """Largest difference, relative to the size of `a`."""
    return float(np.abs(a - b).max() / np.abs(a).max())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("t", "r"), TIMES)
def test_the_field_is_the_transcription_s(
    network: TiMTransformer, shape: tuple[int, int], t: float, r: float
) -> None:
    latent, text, _ = draw_inputs(shape)
    ours = run_network(network, latent, t, r, text)
    theirs = tim_transcription.network(weights_of(network), latent, t, r, text, SIZES)
    assert ours.shape == theirs.shape == latent.shape
    assert gap(theirs, ours) < SAME


def test_samples_of_a_batch_are_those_of_single_calls(network: TiMTransformer) -> None:
    """Every sample has its own time and text; the transcription knows no batch."""
    drawn = [draw_inputs((3, 5), tokens=4), draw_inputs((3, 5), tokens=4)]
    latents = np.stack([drawn[0][0], drawn[1][0][:, ::-1].copy()])
    texts = np.stack([drawn[0][1], drawn[1][2]])
    t, r = (0.75, 0.25), (0.5, 0.125)
    ours = network(
        torch.from_numpy(latents),
        torch.tensor(t, dtype=torch.float64),
        torch.tensor(r, dtype=torch.float64),
        torch.from_numpy(texts),
    )
    for i in range(2):
        theirs = tim_transcription.network(
            weights_of(network), latents[i], t[i], r[i], texts[i], SIZES
        )
        assert gap(theirs, ours[i].numpy()) < SAME


def sample_slowly(
    network: TiMTransformer, noise: Array, text: Array, null: Array, num_steps: int, scale: float
) -> tuple[Array, int]:
    """The transcription's latent, and how many calls it made."""
    weights = weights_of(network)
    calls = []

    def predict(x: Array, t: float, r: float, features: Array) -> Array:
        calls.append(t)
        return tim_transcription.network(weights, x, t, r, features, SIZES)

    return tim_transcription.sample(predict, noise, text, null, num_steps, scale), len(calls)


def sample_ours(
    network: TiMTransformer, noise: Array, text: Array, null: Array, num_steps: int, scale: float
) -> Array:
    drawn = sample_tim(
        network,
        torch.from_numpy(noise)[None],
        torch.from_numpy(text)[None],
        torch.from_numpy(null)[None],
        num_steps,
        scale,
    )
    return drawn[0].numpy()


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4])
def test_latents_are_the_transcription_s(network: TiMTransformer, num_steps: int) -> None:
    noise, text, null = draw_inputs((3, 4))
    theirs, calls = sample_slowly(network, noise, text, null, num_steps, 2.5)
    assert calls == 2 * num_steps - 1
    assert gap(theirs, sample_ours(network, noise, text, null, num_steps, 2.5)) < SAME


@pytest.mark.parametrize("num_steps", [1, 3, 7, 50, 128])
def test_times_are_the_transcription_s(num_steps: int) -> None:
    assert transition_times(num_steps) == tim_transcription.grid(num_steps)


# ---- mistakes that the transcription must tell apart: name -> (function, what replaces it)


def pairs_apart(vector: Array, angles: Array) -> Array:
    """Components i and i + d/2, as language models rotate."""
    first, second = np.split(vector, 2)
    turned = first * np.cos(angles) - second * np.sin(angles)
    return np.concatenate([turned, first * np.sin(angles) + second * np.cos(angles)])


def gate_on_the_other_branch(weights: Weights, name: str, x: Array) -> Array:
    gate = tim_transcription.silu(tim_transcription.linear(weights, f"{name}.fc1_x", x))
    return tim_transcription.linear(
        weights, f"{name}.fc2", gate * tim_transcription.linear(weights, f"{name}.fc1_g", x)
    )


def unscaled_attention(query: Array, keys: Array, values: Array) -> Array:
    scores = np.exp(query @ keys.T)
    return (scores / scores.sum(axis=1, keepdims=True)) @ values


_attend, _nine_parts = tim_transcription.attend, tim_transcription.nine_parts
_rotate_pairs, _sinusoid = tim_transcription.rotate_pairs, tim_transcription.sinusoid

NETWORK_MISTAKES: dict[str, tuple[str, Callable[..., Any]]] = {
    "qkv_d left out": ("distance", lambda weights, name, delta: 0.0),
    "cross-attention turns the keys too": ("rotate_cross_key", tim_transcription.rotate),
    "pairs of distant components": ("rotate_pairs", pairs_apart),
    "turned the other way": ("rotate_pairs", lambda vector, angles: _rotate_pairs(vector, -angles)),
    "coordinates of the image, row first": ("coordinates", lambda n, h, w: (n // w, n % w)),
    "coordinates of the image, column first": ("coordinates", lambda n, h, w: (n % w, n // w)),
    "coordinates exchanged": ("coordinates", lambda n, h, w: (n // h, n % h)),
    "scale and shift exchanged": ("modulate", lambda x, shift, scale: x * (1 + shift) + scale),
    "scale without the one": ("modulate", lambda x, shift, scale: x * scale + shift),
    "gate first": (
        "nine_parts",
        lambda m: [_nine_parts(m)[i] for i in (1, 2, 0, 4, 5, 3, 7, 8, 6)],
    ),
    "cross-attention first": (
        "nine_parts",
        lambda m: [_nine_parts(m)[i] for i in (3, 4, 5, 0, 1, 2, 6, 7, 8)],
    ),
    "sines first": (
        "sinusoid",
        lambda t: np.roll(_sinusoid(t), tim_transcription.SINUSOID_DIMS // 2),
    ),
    "times in thousands": ("time_as_seen", lambda t: 1000.0 * t),
    "r in place of t - r": ("second_time", lambda t, r: r),
    "a masked text token": ("attend_text", lambda q, k, v: _attend(q, k[:-1], v[:-1])),
    "attention without its scale": ("attend", unscaled_attention),
    "norms without their stored weights": (
        "stored_norm",
        lambda weights, name, x, eps: tim_transcription.standardise(x, eps),
    ),
    "no norm in front of a branch": ("block_norm", lambda x, eps: x),
    "text not normalised in every block": ("text_norm", lambda x, eps: x),
    "gate on the other branch of SwiGLU": ("swiglu", gate_on_the_other_branch),
}


@pytest.mark.parametrize("mistake", NETWORK_MISTAKES)
def test_mistakes_in_the_network_are_told_apart(
    network: TiMTransformer, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.setattr(tim_transcription, *NETWORK_MISTAKES[mistake])
    latent, text, _ = draw_inputs((3, 5))
    ours = run_network(network, latent, 0.75, 0.25, text)
    assert (
        gap(tim_transcription.network(weights_of(network), latent, 0.75, 0.25, text, SIZES), ours)
        > TOLD_APART
    )


@pytest.mark.parametrize(
    ("name", "value", "shrunk"),
    [("block_eps", 1e-5, "x_embedder"), ("head_eps", 1e-6, "attn.q"), ("caption_eps", 1e-6, "")],
)
def test_epsilons_are_told_apart(
    network: TiMTransformer, name: str, value: float, shrunk: str
) -> None:
    """Where what is normalised is small; elsewhere they hardly show."""
    small = copy.deepcopy(network)
    for key, parameter in small.named_parameters():
        if "q_norm" in key or "k_norm" in key:
            parameter.mul_(10.0)  # so that attention minds its queries
        elif shrunk and shrunk in key:
            parameter.mul_(0.003)
    latent, text, _ = draw_inputs((3, 5))
    text = 0.003 * text
    ours = run_network(small, latent, 0.75, 0.25, text)
    weights = weights_of(small)
    assert gap(tim_transcription.network(weights, latent, 0.75, 0.25, text, SIZES), ours) < SAME
    other = replace(SIZES, **{name: value})
    assert (
        gap(tim_transcription.network(weights, latent, 0.75, 0.25, text, other), ours) > TOLD_APART
    )


def test_the_odd_coordinates_do_not_show_where_sides_are_equal(
    network: TiMTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        tim_transcription, *NETWORK_MISTAKES["coordinates of the image, column first"]
    )
    latent, text, _ = draw_inputs((3, 3))
    ours = run_network(network, latent, 0.75, 0.25, text)
    assert (
        gap(tim_transcription.network(weights_of(network), latent, 0.75, 0.25, text, SIZES), ours)
        < SAME
    )


SAMPLER_MISTAKES: dict[str, tuple[str, Callable[..., Any]]] = {
    "guided at t = 1": ("is_guided", lambda t: True),
    "never guided": ("is_guided", lambda t: False),
    "guidance counted from the prompt": ("guide", lambda c, null, scale: c + scale * (c - null)),
    "times not rounded": ("round_bfloat16", lambda t: t),
}


@pytest.mark.parametrize("mistake", SAMPLER_MISTAKES)
def test_mistakes_in_the_sampler_are_told_apart(
    network: TiMTransformer, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    noise, text, null = draw_inputs((3, 4))
    ours = sample_ours(network, noise, text, null, 3, 2.5)  # thirds are no bfloat16 numbers
    monkeypatch.setattr(tim_transcription, *SAMPLER_MISTAKES[mistake])
    theirs, _ = sample_slowly(network, noise, text, null, 3, 2.5)
    assert gap(theirs, ours) > TOLD_APART


# ---- text, noise and pixels, through the adapter

PROMPTS = ["a cat", "a photo of three very large cats", "a dog"]
SEEDS = [5, 6, 7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_tiny("tim", tmp_path_factory.mktemp("tim"))


def load(folder: str, text_length: str) -> Any:
    arguments = {**TINY_ARGS, "height": 24, "width": 32, "text_length": text_length}
    return registry.load("tim", local_path=folder, model_args=arguments)


def latents_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> Array:
    """What `generate` hands to the decoder."""
    caught: list[torch.Tensor] = []
    decode = model.decode
    monkeypatch.setattr(
        model, "decode", lambda latents: (caught.append(latents), decode(latents))[1]
    )
    model.generate(PROMPTS, 2, SEEDS)
    monkeypatch.setattr(model, "decode", decode)
    return caught[0].double().numpy()


def latents_slowly(model: Any) -> Array:
    """The same by the transcription, from the language model's 256 features of each prompt."""
    features, lengths = model.text.encode(PROMPTS)
    null = model.text.encode([""])[0][0].double().numpy()
    features = features.double().numpy()
    weights = {name: value.double().numpy() for name, value in model.network.state_dict().items()}
    shape = (4, model.height // model.factor, model.width // model.factor)
    assert shape[1] != shape[2]
    latents = []
    for i, seed in enumerate(SEEDS):
        of_batch = lengths if model.settings["text_length"] == "batch" else [lengths[i]]
        noise = torch.randn(1, *shape, generator=torch.Generator("cpu").manual_seed(seed))
        latents.append(
            tim_transcription.sample(
                lambda x, t, r, text: tim_transcription.network(
                    weights, x, t, r, text, Sizes(heads=2, depth=2)
                ),
                noise[0].double().numpy(),
                tim_transcription.cut_prompts(features[i : i + 1], of_batch)[0],
                tim_transcription.cut_null(null, of_batch),
                2,
                2.5,
            )
        )
    return np.stack(latents)


@pytest.mark.parametrize("text_length", ["own", "batch"])
def test_the_whole_adapter_is_the_transcription_s(
    folder: str, monkeypatch: pytest.MonkeyPatch, text_length: str
) -> None:
    model = load(folder, text_length)
    ours = latents_of(model, monkeypatch)
    assert gap(latents_slowly(model), ours) < 1e-5  # float32 through two steps
    wrong = {
        "null prompt uncut": ("cut_null", lambda null, lengths: null),
        "null prompt cut to its own length": ("cut_null", lambda null, lengths: null[:1]),
        "prompts uncut": ("cut_prompts", lambda features, lengths: features),
    }
    for mistake in wrong.values():
        with monkeypatch.context() as patch:
            patch.setattr(tim_transcription, *mistake)
            assert gap(latents_slowly(model), ours) > TOLD_APART


def test_pixels_are_the_transcription_s(folder: str) -> None:
    model = load(folder, "own")
    latents = torch.randn(1, 4, 12, 16, generator=torch.Generator().manual_seed(0))
    scaled = latents / model.vae.config.scaling_factor
    decoded = model.vae.decode(scaled, return_dict=False)[0][0].detach().numpy()
    pixels, finite = model.decode(latents)
    assert finite.all()
    assert np.array_equal(
        (pixels[0] * 255).round().numpy().astype(np.uint8), tim_transcription.to_pixels(decoded)
    )


def test_published_shapes() -> None:
    """What the counts of parameters do not tell apart."""
    with torch.device("meta"):
        state = TiMTransformer().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    block = "blocks.27"
    expected = {
        "x_embedder.proj.weight": (1152, 32, 1, 1),
        "t_embedder.mlp.0.weight": (1152, 256),
        "delta_embedder.mlp.2.weight": (1152, 1152),
        "y_embedder.mlp.fc1_g.weight": (4 * 1152, 1152),
        f"{block}.attn.qkv_d.weight": (3 * 1152, 1152),
        f"{block}.attn.q_norm.weight": (72,),
        f"{block}.cross_attn.kv.weight": (2 * 1152, 1152),
        f"{block}.cross_attn.k_norm.bias": (72,),
        f"{block}.mlp.fc1_x.weight": (3072, 1152),
        f"{block}.adaLN_modulation.fc1_g.weight": (384, 1152),
        f"{block}.adaLN_modulation.fc2.weight": (9 * 1152, 384),
        "final_layer.linear.weight": (32, 1152),
        "final_layer.adaLN_modulation.fc1_x.weight": (576, 1152),
    }
    assert {name: shapes[name] for name in expected} == expected
