"""The exact model against Gaussian mixtures in closed form, and headroom made of it."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from evals.base import ImageVerdict
from evals.registry import open_suite
from evals.scoring.benchmark import score_model
from evals.scoring.headroom import (
    CHECKED_IMAGES,
    change,
    measure_headroom,
    reading_words,
    table_rows,
)
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.scoring.settings import BenchmarkSettings
from evals.suites.limit import limited
from evals.verdicts import read_verdicts
from selfe.data.gaussian_mixture import ConditionalGaussianMixture, overlapping_pairs
from selfe.data.shapes_latents import images_to_float
from selfe.data.shapes_world import ShapesWorld
from selfe.data.shapes_world.exact_model import ExactVelocity, SceneLatents, scene_weights
from selfe.encoders.registry import load_codec
from selfe.generation.exact import ExactGenerator
from selfe.sampler import SamplerSettings, draw_samples
from selfe.times import length_shift
from tests.helpers.command_line import selfe_bench

TIMES = (1.0, 0.9, 0.5, 0.2)
WORLD = ShapesWorld("grid")


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("t", TIMES)
def test_scenes_are_a_mixture_of_points(t: float) -> None:
    """K scenes are a Gaussian mixture of equal weights whose components have no width."""
    scenes, x_t = noise(5, 3), noise(40, 3, seed=2)
    mixture = ConditionalGaussianMixture(
        torch.full((1, 5), 0.2, dtype=torch.float64),
        scenes[None],
        1e-12 * torch.eye(3, dtype=torch.float64).expand(1, 5, 3, 3),
        torch.ones(1, dtype=torch.float64),
    )
    velocity = ExactVelocity(scenes.reshape(5, 3, 1, 1))
    found = velocity.posterior_mean(x_t.reshape(40, 3, 1, 1), t)
    assert torch.allclose(found.flatten(1), mixture.posterior_mean(x_t, t, 0), atol=1e-9)
    assert ((velocity.scenes_in_use > 0.999) & (velocity.scenes_in_use < 5.001)).all()
    if t == 1:  # pure noise says nothing: every scene is as likely
        assert torch.allclose(scene_weights(x_t, t, scenes), torch.tensor(0.2).double())
    v = velocity(x_t.reshape(40, 3, 1, 1), torch.full((40,), t), torch.zeros(40))
    assert torch.allclose(x_t - t * v.flatten(1), found.flatten(1), atol=1e-6)


@pytest.mark.parametrize("t", TIMES)
def test_many_draws_are_the_mixture_they_are_of(t: float) -> None:
    """The posterior mean over K draws of a mixture tends to the mixture's own."""
    mixture = overlapping_pairs(0.5)
    generator = torch.Generator().manual_seed(4)
    draws = mixture.sample(200_000, 0, generator)
    x_0 = mixture.sample(30, 0, generator)
    x_t = (1 - t) * x_0 + t * noise(30, 2)
    exact = mixture.posterior_mean(x_t, t, 0)
    errors = [
        (ExactVelocity(draws[:count]).posterior_mean(x_t, t) - exact).norm(dim=1).mean()
        for count in (200, 200_000)
    ]
    assert errors[1] < 0.02 and errors[1] < errors[0] / 5


def test_samples_of_many_draws_are_samples_of_the_mixture() -> None:
    """One Gaussian in one dimension: N steps of the sampler are a linear map in closed form."""
    std, num_steps = 0.6, 4
    draws = std * noise(100_000, 1)
    x = noise(64, 1, seed=3)
    settings = SamplerSettings(eta=0.0, warp=False)
    found = draw_samples(ExactVelocity(draws), x, num_steps, 16, settings, lambda k: x)
    expected = x.clone()
    for k in range(num_steps):
        t, t_next = 1 - k / num_steps, 1 - (k + 1) / num_steps
        gain = (1 - t) * std**2 / ((1 - t) ** 2 * std**2 + t**2)
        x0_hat = gain * expected
        eps_hat = (expected - (1 - t) * x0_hat) / t
        expected = (1 - t_next) * x0_hat + t_next * eps_hat
    assert torch.allclose(found, expected, atol=0.02)


def records(per_task: int = 1) -> list[dict]:
    return list(limited(open_suite("shapes@1"), per_task).records)


def exact_generator(num_scenes: int = 32, signal: float = 1.0, **settings) -> ExactGenerator:
    return ExactGenerator(
        WORLD,
        records(),
        load_codec("shapes-grid", "cpu", signal=signal),
        num_scenes=num_scenes,
        settings=SamplerSettings(**{"eta": 0.0, **settings}),
        signal=signal,
    )


def test_more_scenes_begin_with_the_same() -> None:
    codec = load_codec("shapes-grid", "cpu")
    prompts = [record["prompt"] for record in records()]

    def scenes(seed: int) -> SceneLatents:
        return SceneLatents(WORLD, records(), lambda x: codec.encode(images_to_float(x)), seed)

    first, other = scenes(0), scenes(0)
    few = first(prompts[0], 20).clone()
    other(prompts[1], 5)  # prompts do not disturb each other
    assert torch.allclose(other(prompts[0], 50)[:20], few, atol=1e-5)
    assert torch.equal(first(prompts[0], 50)[:20], few) and len(first(prompts[0], 7)) == 7
    assert not torch.allclose(scenes(1)(prompts[0], 20), few, atol=1e-2)
    with pytest.raises(ValueError, match="no scenes of 'a photo of a cow'"):
        first("a photo of a cow", 3)


def test_one_step_draws_the_mean_scene() -> None:
    model, prompt = exact_generator(), records()[2]["prompt"]
    drawn = model.generate([prompt, prompt], 1, [3, 4])
    assert np.array_equal(drawn[0], drawn[1])
    assert model.scenes_in_use == pytest.approx([32, 32])
    mean = model._scenes(prompt, 32).mean(0, keepdim=True)
    pixels = ((model.codec.decode(mean).clamp(-1, 1) + 1) * 127.5).round().byte()
    assert np.abs(pixels[0].permute(1, 2, 0).numpy() - drawn[0].astype(int)).max() <= 1


def test_an_image_depends_on_its_prompt_and_seed_only() -> None:
    prompts = [record["prompt"] for record in records()]
    together = exact_generator().generate([*prompts, prompts[0]], 3, [*range(6), 9])
    alone = exact_generator().generate([prompts[0]], 3, [9])
    assert np.abs(alone[0].astype(int) - together[-1].astype(int)).max() <= 1
    assert not np.array_equal(together[0], together[-1])
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        exact_generator().generate(prompts[:2], 2, [1])


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_less_signal_is_a_shifted_grid(eta: float) -> None:
    prompts = [record["prompt"] for record in records()]
    mu, b = length_shift(16), 0.25
    weak = exact_generator(200, b, eta=eta).generate(prompts, 2, range(6))
    shift = mu - math.log(b)
    moved = exact_generator(200, eta=eta, shift=shift).generate(prompts, 2, range(6))
    usual = exact_generator(200, eta=eta).generate(prompts, 2, range(6))

    def furthest(a, b) -> int:
        return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())

    assert furthest(weak, moved) <= 2 < 40 < furthest(weak, usual)


def test_a_grid_far_towards_the_data_draws_the_same_scene_again_and_again() -> None:
    """Accuracy alone does not show what few steps cost: such a grid makes every image right."""
    prompt = records()[0]["prompt"]

    def distinct(steps: int, shift: float | None) -> int:
        images = exact_generator(16, shift=shift).generate([prompt] * 48, steps, range(48))
        return len({(np.asarray(image) // 86).tobytes() for image in images})

    assert distinct(50, None) >= 14, "of 16 scenes"
    assert distinct(2, -4.0) <= 2


def test_facts_tell_the_model() -> None:
    assert exact_generator().facts.training == {}
    assert exact_generator(signal=0.5).facts.training == {"signal": 0.5}
    digests = {exact_generator(*arguments).facts.digest for arguments in ((32,), (64,), (32, 0.5))}
    assert len(digests) == 3
    assert "shift" not in exact_generator().sampling_at(2)
    assert exact_generator(shift=-1.0).sampling_at(2)["shift"] == -1.0


def test_scored_in_memory_as_from_a_folder(tmp_path) -> None:
    settings = BenchmarkSettings(limit=1, images_per_prompt=2)
    suite = settings.open_suite("shapes@1")
    folder, result = score_model(
        exact_generator(64, 0.5), 3, "shapes@1", tmp_path, settings, lambda name, done, total: None
    )
    assert result.protocol.signal == 0.5 and result.model.label == "Flow Matching, exact"
    scorer = InMemoryScorer(suite)
    verdicts = scorer(exact_generator(64, 0.5), 3)
    assert verdicts == read_verdicts(folder)
    assert scorer.scores(verdicts) == result.scores
    assert mean_over_tasks(verdicts) == pytest.approx(result.scores.overall.mean)


def test_headroom_doubles_the_scenes() -> None:
    suite = dataclasses.replace(limited(open_suite("shapes@1"), 1), images_per_prompt=2)
    model = exact_generator(16, 0.25)
    found = measure_headroom(model, suite, [1, 50], most_scenes=64, signal=0.25, tolerance=0)
    assert list(found.overall_by_scenes)[0] == 16 and found.num_scenes in (32, 64)
    assert found.converged or found.num_scenes == 64
    assert len(found.changes) == 2
    one, many = found.cells
    assert one.scores.num_images == 6 * CHECKED_IMAGES
    # all images that were drawn count, as in reports
    assert one.headroom == pytest.approx(1 - one.scores.overall.mean)
    assert one.headroom == pytest.approx(1 - found.overall_by_scenes[found.num_scenes][0])
    assert many.scores.overall.mean > 0.8 > one.scores.overall.mean
    assert one.scenes_in_use == pytest.approx(found.num_scenes)
    assert many.scenes_in_use < 2, "so few scenes are told apart in the end"
    assert many.tv is not None and many.tv_data is not None
    text = " ".join(reading_words(found))
    assert "latents times 0.25" in text and "6 prompts x 16 images" in text
    rows = table_rows(found)
    assert [row["steps"] for row in rows] == ["1", "50"]
    assert rows[0]["headroom"] == f"{one.headroom:.3f}" and "color_attr" in rows[0]


def test_changes_have_an_error_over_prompts() -> None:
    def verdicts(rights: list[list[int]]) -> list[ImageVerdict]:
        return [
            ImageVerdict(prompt_id=p, sample_id=i, tag="colors", correct=bool(right), reason="")
            for p, row in enumerate(rights)
            for i, right in enumerate(row)
        ]

    a, b = verdicts([[0, 0], [1, 0], [1, 1]]), verdicts([[1, 0], [1, 0], [1, 0]])
    moved, error = change(a, b)
    assert moved == pytest.approx(0) and error == pytest.approx(0.5 / math.sqrt(3))
    assert change(a, a) == (0, 0)


def test_only_worlds_have_headroom() -> None:
    with pytest.raises(ValueError, match="geneval@1 has no scenes to draw"):
        measure_headroom(exact_generator(), open_suite("geneval@1"), [2], most_scenes=64)


def test_command(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    out = tmp_path / "found.json"
    small = "--limit 1 --images-per-prompt 1 --steps 1,4 --scenes 16 --most-scenes 32".split()
    code, printed, _ = selfe_bench("headroom", *small, "--signal", "0.5", "--out", str(out))
    assert code == 0 and "latents times 0.5" in printed.replace("\n", " ")
    assert printed.startswith("steps") and max(map(len, printed.splitlines())) <= 60
    found = json.loads(out.read_text())
    assert [cell["steps"] for cell in found["cells"]] == [1, 4]
    assert found["protocol"]["signal"] == 0.5 and found["environment"]["commit"]
    for wrong, words in (
        (["--suite", "geneval@1"], "no scenes to draw"),
        (["--signal", "0"], "greater than 0"),
        (["--scenes", "64", "--most-scenes", "32"], "more than --most-scenes"),
    ):
        code, _, error = selfe_bench("headroom", *wrong)
        assert code == 2 and words in error
