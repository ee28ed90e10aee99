"""Counter-based randomness: right generator, right distribution, independent of batching."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats

from selfe.seeding import SampleRng, derive_seed, philox


def test_philox_known_answers():
    # Random123's published vectors for philox4x32-10
    def run(counter, key):
        words = [torch.tensor(c, dtype=torch.int64) for c in counter]
        return [int(w) for w in philox(key[0] | key[1] << 32, tuple(words))]

    zero = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert run([0] * 4, [0, 0]) == zero
    ones = [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    assert run([0xFFFFFFFF] * 4, [0xFFFFFFFF, 0xFFFFFFFF]) == ones
    pi = [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]
    assert run([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0]) == pi


def test_draws_belong_to_positions_not_to_batches():
    whole = SampleRng(7, torch.arange(100))
    shuffled = torch.tensor([5, 99, 0])
    some = SampleRng(7, shuffled)
    assert torch.equal(whole.normal("eps", (3, 5))[shuffled], some.normal("eps", (3, 5)))
    assert torch.equal(whole.uniform("t")[shuffled], some.uniform("t"))
    assert torch.equal(whole.rows(10, 20).normal("eps"), whole.normal("eps")[10:20])


def test_purposes_and_seeds_are_independent_streams():
    position = torch.arange(20_000)
    a = SampleRng(1, position).normal("a")
    b = SampleRng(1, position).normal("b")
    c = SampleRng(2, position).normal("a")
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert abs(np.corrcoef(a, c)[0, 1]) < 0.03


def test_distributions():
    rng = SampleRng(3, torch.arange(2000))
    normal = rng.normal("eps", (7,)).flatten().numpy()
    assert stats.kstest(normal, "norm").pvalue > 1e-3
    uniform = rng.uniform("u").numpy()
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert 0 < uniform.min() and uniform.max() < 1


def test_elements_of_one_sample_are_independent():
    draws = SampleRng(4, torch.arange(5000)).normal("eps", (8,)).numpy()
    correlation = np.corrcoef(draws.T) - np.eye(8)
    assert np.abs(correlation).max() < 0.06


def test_positions_beyond_32_bits_differ():
    low = SampleRng(0, torch.tensor([5])).normal("eps", (4,))
    high = SampleRng(0, torch.tensor([5 + 2**32])).normal("eps", (4,))
    assert not torch.equal(low, high)


def test_derived_seeds_are_stable_and_fit_63_bits():
    assert derive_seed("a", 1) == derive_seed("a", 1) != derive_seed("a1")
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))
    assert derive_seed("selfe") == 8300265632352349719
