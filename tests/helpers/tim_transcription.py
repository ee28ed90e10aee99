"""TiM-T2I from its published facts alone (arXiv 2509.04394), slow: numpy, float64, one sample.

Written by a second reader who had not seen `baselines/pretrained/tim*.py`, so that the adapter can
be compared with something that does not share its mistakes (`tests/test_tim_transcription.py`).
One fact was missing from that reading and added after the comparison: `text_norm`. Every fact is
one small function of this module, looked up by name when it is called: a test that replaces the
function has a network with that one mistake.

Shapes: a latent is (C, H, W), tokens (L, D) with L = H W in row-major order, text features (T, E).
Weights are a dictionary of arrays with the names of the published state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
Weights = Mapping[str, Array]

SINUSOID_DIMS = 256
MAX_PERIOD = 10_000.0
ROPE_THETA = 10_000.0


@dataclass(frozen=True)
class Sizes:
    """What the weights do not say themselves."""

    heads: int
    depth: int
    block_eps: float = 1e-6
    head_eps: float = 1e-5
    caption_eps: float = 1e-5


# ---- elementary parts


def linear(weights: Weights, name: str, x: Array) -> Array:
    """x W^T + b, without b where the dictionary has none."""
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def silu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(0.5 * x))  # x sigmoid(x), without overflow


def swiglu(weights: Weights, name: str, x: Array) -> Array:
    gate = silu(linear(weights, f"{name}.fc1_g", x))
    return linear(weights, f"{name}.fc2", gate * linear(weights, f"{name}.fc1_x", x))


def standardise(x: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + eps)


def block_norm(x: Array, eps: float) -> Array:
    """The LayerNorm in front of a branch: it has no weights of its own."""
    return standardise(x, eps)


def text_norm(x: Array, eps: float) -> Array:
    """Every block normalises the text before its cross-attention, without weights either."""
    return standardise(x, eps)


def stored_norm(weights: Weights, name: str, x: Array, eps: float) -> Array:
    """A LayerNorm whose weight and bias are in the state dict."""
    return standardise(x, eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def modulate(x: Array, shift: Array, scale: Array) -> Array:
    return x * (1.0 + scale) + shift


# ---- time


def time_as_seen(t: float) -> float:
    """Times enter as they are, in [0, 1]."""
    return t


def sinusoid(t: float) -> Array:
    """256 features, the cosines first."""
    half = SINUSOID_DIMS // 2
    angles = [t * MAX_PERIOD ** (-i / half) for i in range(half)]
    return np.concatenate([np.cos(angles), np.sin(angles)])


def embed_time(weights: Weights, name: str, t: float) -> Array:
    hidden = silu(linear(weights, f"{name}.mlp.0", sinusoid(time_as_seen(t))))
    return linear(weights, f"{name}.mlp.2", hidden)


def second_time(t: float, r: float) -> float:
    return t - r


# ---- rotary positions


def coordinates(n: int, height: int, width: int) -> tuple[int, int]:
    """Of the row-major token n: n mod h and n // h, a place of the image only where H = W."""
    del width
    return n % height, n // height


def rotate_pairs(vector: Array, angles: Array) -> Array:
    """The pairs are neighbours: components 2 i and 2 i + 1 turn by angle i."""
    out = np.empty_like(vector)
    for i, angle in enumerate(angles):
        first, second = vector[2 * i], vector[2 * i + 1]
        out[2 * i] = first * np.cos(angle) - second * np.sin(angle)
        out[2 * i + 1] = first * np.sin(angle) + second * np.cos(angle)
    return out


def rotate(vectors: Array, height: int, width: int) -> Array:
    """(L, d): half of the d components turn with the first coordinate, half with the second."""
    half = vectors.shape[1] // 2
    frequencies = np.array([ROPE_THETA ** (-2 * i / half) for i in range(half // 2)])
    out = np.empty_like(vectors)
    for n, vector in enumerate(vectors):
        first, second = coordinates(n, height, width)
        out[n] = rotate_pairs(vector, np.concatenate([first * frequencies, second * frequencies]))
    return out


def rotate_cross_key(keys: Array, height: int, width: int) -> Array:
    """Text has no place in the image: its keys are left as they are."""
    del height, width
    return keys


# ---- attention


def attend(query: Array, keys: Array, values: Array) -> Array:
    """softmax(q k^T / sqrt(d)) v of one head, over every key."""
    scores = query @ keys.T / np.sqrt(query.shape[1])
    scores = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (scores / scores.sum(axis=1, keepdims=True)) @ values


def attend_text(query: Array, keys: Array, values: Array) -> Array:
    """Cross-attention has no mask: tokens of padding count like any other."""
    return attend(query, keys, values)


def distance(weights: Weights, name: str, delta_embedding: Array) -> Array:
    """`qkv_d`, without bias: how far the step reaches, added to q, k and v of every token."""
    return weights[f"{name}.qkv_d.weight"] @ delta_embedding


def self_attention(
    weights: Weights, name: str, x: Array, delta: Array, size: tuple[int, int], sizes: Sizes
) -> Array:
    width = x.shape[1]
    qkv = linear(weights, f"{name}.qkv", x) + distance(weights, name, delta)
    query, key, value = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
    dims = width // sizes.heads
    heads = []
    for h in range(sizes.heads):
        part = slice(h * dims, (h + 1) * dims)
        q = rotate(stored_norm(weights, f"{name}.q_norm", query[:, part], sizes.head_eps), *size)
        k = rotate(stored_norm(weights, f"{name}.k_norm", key[:, part], sizes.head_eps), *size)
        heads.append(attend(q, k, value[:, part]))
    return linear(weights, f"{name}.proj", np.concatenate(heads, axis=1))


def cross_attention(
    weights: Weights, name: str, x: Array, text: Array, size: tuple[int, int], sizes: Sizes
) -> Array:
    width = x.shape[1]
    query = linear(weights, f"{name}.q", x)
    key, value = np.split(linear(weights, f"{name}.kv", text), 2, axis=1)
    dims = width // sizes.heads
    heads = []
    for h in range(sizes.heads):
        part = slice(h * dims, (h + 1) * dims)
        q = rotate(stored_norm(weights, f"{name}.q_norm", query[:, part], sizes.head_eps), *size)
        k = stored_norm(weights, f"{name}.k_norm", key[:, part], sizes.head_eps)
        heads.append(attend_text(q, rotate_cross_key(k, *size), value[:, part]))
    return linear(weights, f"{name}.proj", np.concatenate(heads, axis=1))


# ---- the network


def nine_parts(modulation: Array) -> list[Array]:
    """shift, scale, gate of self-attention, then of cross-attention, then of the MLP."""
    return np.split(modulation, 9)


def block(
    weights: Weights,
    name: str,
    x: Array,
    text: Array,
    condition: Array,
    delta: Array,
    size: tuple[int, int],
    sizes: Sizes,
) -> Array:
    parts = nine_parts(swiglu(weights, f"{name}.adaLN_modulation", condition))
    shift, scale, gate = parts[:3]
    inner = modulate(block_norm(x, sizes.block_eps), shift, scale)
    x = x + gate * self_attention(weights, f"{name}.attn", inner, delta, size, sizes)
    shift, scale, gate = parts[3:6]
    inner = modulate(block_norm(x, sizes.block_eps), shift, scale)
    text = text_norm(text, sizes.block_eps)
    x = x + gate * cross_attention(weights, f"{name}.cross_attn", inner, text, size, sizes)
    shift, scale, gate = parts[6:]
    inner = modulate(block_norm(x, sizes.block_eps), shift, scale)
    return x + gate * swiglu(weights, f"{name}.mlp", inner)


def embed_caption(weights: Weights, features: Array, sizes: Sizes) -> Array:
    """LayerNorm, then SwiGLU: (T, E) to (T, D)."""
    normed = stored_norm(weights, "y_embedder.norm", features, sizes.caption_eps)
    return swiglu(weights, "y_embedder.mlp", normed)


def network(
    weights: Weights, latent: Array, t: float, r: float, features: Array, sizes: Sizes
) -> Array:
    """F(x_t, t, r, c) of one sample: latent (C, H, W), features (T, E) -> (C, H, W)."""
    channels, height, width = latent.shape
    tokens = latent.reshape(channels, height * width).T
    embedding = weights["x_embedder.proj.weight"]
    x = tokens @ embedding.reshape(embedding.shape[0], channels).T + weights["x_embedder.proj.bias"]
    delta = embed_time(weights, "delta_embedder", second_time(t, r))
    condition = embed_time(weights, "t_embedder", t) + delta
    text = embed_caption(weights, features, sizes)
    for i in range(sizes.depth):
        x = block(weights, f"blocks.{i}", x, text, condition, delta, (height, width), sizes)
    shift, scale = np.split(swiglu(weights, "final_layer.adaLN_modulation", condition), 2)
    x = modulate(block_norm(x, sizes.block_eps), shift, scale)
    out = linear(weights, "final_layer.linear", x)
    return out.T.reshape(channels, height, width)


# ---- text


def cut_prompts(features: Array, lengths: Sequence[int]) -> Array:
    """(B, 256, E), right-padded, to the longest prompt of the batch: (B, T, E)."""
    return features[:, : max(lengths)]


def cut_null(null_features: Array, lengths: Sequence[int]) -> Array:
    """The features of "", (256, E), cut to the prompts' length, not to its own."""
    return null_features[: max(lengths)]


# ---- sampler


def round_bfloat16(value: float) -> float:
    """To the nearest number with 8 significant bits, ties to the even one."""
    if value == 0.0:
        return 0.0
    unit = 2.0 ** (np.floor(np.log2(value)) - 7)
    return float(np.round(value / unit) * unit)


def grid(num_steps: int) -> list[float]:
    """num_steps + 1 times from 1 to 0."""
    return [round_bfloat16(1.0 - i / num_steps) for i in range(num_steps + 1)]


def is_guided(t: float) -> bool:
    """Guidance is for t < 1, strictly: the first step from pure noise has none."""
    return t < 1.0


def guide(field: Array, field_null: Array, guidance: float) -> Array:
    return field_null + guidance * (field - field_null)


Network = Callable[[Array, float, float, Array], Array]


def sample(
    predict: Network, noise: Array, text: Array, null_text: Array, num_steps: int, guidance: float
) -> Array:
    """The latent at t = 0 of one sample; `predict(x, t, r, features)` is called 2 N - 1 times."""
    x = noise.astype(np.float64)
    times = grid(num_steps)
    for t, r in zip(times, times[1:], strict=False):
        field = predict(x, t, r, text)
        if is_guided(t):
            field = guide(field, predict(x, t, r, null_text), guidance)
        x = x - (t - r) * field
    return x


def to_pixels(decoded: Array) -> Array:
    """The autoencoder's output, about [-1, 1], as 127.5 x + 128 within 0 to 255."""
    return np.clip(127.5 * decoded + 128.0, 0.0, 255.0).astype(np.uint8)
