"""Padding of captions, in memory that is used again only when nobody holds it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from selfe.data.latent_cache.padded_rows import PaddedRows, fill_padded


def random_rows(seed: int, count: int = 3, longest: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, count)
    return [rng.integers(1, 1000, (length, 2)).astype(np.int16) for length in lengths]


def expected(rows: list[np.ndarray], length: int = 6) -> Tensor:
    padded = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    return torch.nn.functional.pad(padded, (0, 0, 0, length - padded.shape[1]))


def test_rows_come_padded_whatever_was_in_the_memory_before() -> None:
    pad = PaddedRows(most=1)
    places = set()
    for seed in range(20):
        rows = random_rows(seed)
        padded = pad(rows, 6)
        places.add(padded.data_ptr())
        assert torch.equal(padded, expected(rows))
        del padded
    assert len(places) == 1


@pytest.mark.parametrize(
    "hold",
    [
        pytest.param(lambda padded: padded, id="itself"),
        pytest.param(lambda padded: padded.view(torch.float16)[1:, :1], id="view"),
        pytest.param(lambda padded: padded.numpy(), id="array"),
    ],
)
def test_memory_that_is_held_is_left_alone(hold: Callable[[Tensor], Tensor | np.ndarray]) -> None:
    pad = PaddedRows(most=2)
    first = pad(random_rows(0), 6)
    address, before = first.data_ptr(), first.clone()
    held = hold(first)
    del first
    others = [pad(random_rows(seed), 6) for seed in (1, 2, 3)]
    assert address not in [other.data_ptr() for other in others]
    again = torch.as_tensor(held)
    assert torch.equal(again, torch.as_tensor(hold(before)))


def test_what_was_dropped_for_others_stays_whole() -> None:
    pad = PaddedRows(most=1)
    batches = [(rows, pad(rows, 6)) for rows in map(random_rows, range(5))]
    assert len(pad._buffers) == 1
    assert all(torch.equal(padded, expected(rows)) for rows, padded in batches)


def test_threads_never_share_memory() -> None:
    pad = PaddedRows(most=4)

    def work(seed: int) -> bool:
        rows = random_rows(seed, count=8, longest=64)
        padded = pad(rows, 64)
        return torch.equal(padded, expected(rows, 64))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(400)))


def test_padding_of_memory_with_anything_in_it() -> None:
    rows = random_rows(4)
    words = np.full((3, 6, 2), 7, np.int16)
    fill_padded(words, rows, [6, 6, 6])
    assert torch.equal(torch.from_numpy(words), expected(rows))
