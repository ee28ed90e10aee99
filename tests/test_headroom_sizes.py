"""The exact model of cells, against a list of every scene."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from scripts.studies.headroom_sizes import (
    CellWorld,
    candidates,
    draw,
    squares,
    study,
    textured,
    unit_variance,
)


def small_world() -> CellWorld:
    rng = torch.Generator().manual_seed(3)
    return CellWorld(torch.randn(4, 3, 2, generator=rng, dtype=torch.float64), 2)


def every_scene(world: CellWorld) -> Tensor:
    """(K, M, D) all scenes, each once."""
    cells, looks, dims = world.patterns.shape
    scenes = []
    for held in combinations(range(cells), world.objects):
        for look in product(range(looks), repeat=world.objects):
            scene = torch.zeros(cells, dims, dtype=torch.float64)
            for cell, k in zip(held, look, strict=True):
                scene[cell] = world.patterns[cell, k]
            scenes.append(scene)
    return torch.stack(scenes)


@pytest.mark.parametrize("t", [1.0, 0.7, 0.2, 0.05])
def test_posterior_mean_is_the_mean_over_every_scene(t: float) -> None:
    world = small_world()
    scenes = every_scene(world)
    x = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    distances = (x[:, None] - (1 - t) * scenes).square().sum((2, 3))
    weights = (-distances / (2 * t**2)).softmax(1)
    mean, chances = world.posterior_mean(x, t)
    torch.testing.assert_close(mean, torch.einsum("bk,kmd->bmd", weights, scenes))
    torch.testing.assert_close(chances.sum((1, 2)), torch.full((5,), 2.0, dtype=torch.float64))


def test_squares_have_their_areas_and_lie_in_each_other() -> None:
    patterns = squares([2, 4, 14])
    torch.testing.assert_close(
        patterns @ patterns.T,
        torch.tensor([[4.0, 4, 4], [4, 16, 16], [4, 16, 196]], dtype=torch.float64),
    )


def test_scenes_of_the_data_are_right_and_diverse() -> None:
    world = unit_variance(squares([2, 8]).expand(6, -1, -1), 3)
    looks = world.scenes(20_000, torch.Generator().manual_seed(0))
    assert ((looks >= 0).sum(1) == 3).all()
    assert world.lost_diversity(looks) < 0.02
    assert world.lost_diversity(torch.where(looks == 0, -1, looks)) == pytest.approx(0.5, abs=0.02)


def test_a_scene_is_recognised() -> None:
    world = unit_variance(textured(6, 4, 0.5).expand(5, -1, -1), 2)
    looks = world.scenes(50, torch.Generator().manual_seed(0))
    filled = world.patterns[torch.arange(5), looks.clamp_min(0)]
    x_0 = torch.where(looks[..., None] >= 0, filled, 0.0)
    assert torch.equal(world.recognised(x_0), looks)


def test_two_steps_suffice_where_all_objects_are_alike_and_cost_diversity_where_not() -> None:
    alike = unit_variance(torch.full((12, 1, 1), 6.0, dtype=torch.float64), 3)
    sizes = torch.linspace(2, 14, 12, dtype=torch.float64)[:, None, None]
    near_the_data = [1.0, 0.05, 0.0]
    for world, kept in ((alike, True), (unit_variance(sizes, 3), False)):
        looks = draw(world, near_the_data, 2000, torch.Generator().manual_seed(0))
        assert ((looks >= 0).sum(1) == 3).double().mean() > 0.99
        assert (world.lost_diversity(looks) < 0.05) is kept


def test_every_grid_goes_from_one_to_zero() -> None:
    for times in candidates(4, np.random.default_rng(0), 20):
        assert times[0] == 1
        assert times[-1] == 0
        assert all(a > b for a, b in zip(times[:-1], times[1:], strict=True))


def test_a_study_keeps_both_scores() -> None:
    world = unit_variance(torch.full((8, 1, 1), 6.0, dtype=torch.float64), 2)
    row = study(world, 2, few=50, many=400, tries=16)
    assert row["any"]["score"] == 1
    assert row["diverse"]["score"] > 0.9
    assert row["diverse"]["tv"] <= row["tv_data"] + 0.05
