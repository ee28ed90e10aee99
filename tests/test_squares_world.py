"""The world of suite scenes@1: its renderer, codec, detector, prompts and exact model."""

from __future__ import annotations

import dataclasses
import json
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor

from evals.detectors.squares import SquaresDetector
from evals.registry import open_suite
from evals.scoring.in_memory import InMemoryScorer, mean_over_tasks
from evals.suites.limit import limited
from evals.suites.rules import judge
from selfe.config.resolve import resolve
from selfe.data.shapes_latents import images_to_float
from selfe.data.shapes_world import Scene, ShapeObject, open_world
from selfe.data.shapes_world.exact_squares import ExactSquares, occupancy
from selfe.data.shapes_world.squares import SquaresWorld, draw_record, two_colors
from selfe.data.shapes_world.vocabulary import COLORS, counting
from selfe.encoders.ring_layout import BACKGROUND
from selfe.encoders.rings import RingCodec, from_cells, to_cells
from selfe.generation.exact import ExactGenerator
from selfe.sampler import SamplerSettings
from tests.helpers.command_line import selfe_bench

HELDOUT_SHA = "f43547c6e2a22fb9"


def scenes(count: int) -> list[Scene]:
    world = SquaresWorld()
    return [world.training_example(7, index) for index in range(count)]


def floats(drawn: list[Scene]) -> Tensor:
    return images_to_float(torch.from_numpy(SquaresWorld().render_batch(drawn)))


def test_a_square_of_whole_pixels_is_drawn_where_it_lies() -> None:
    image = SquaresWorld().render(Scene({}, (ShapeObject("", "red", 40.0, 8.0, 3.0),), 0.0))
    expected = np.full((64, 64, 3), BACKGROUND, np.uint8)
    expected[5:11, 37:43] = COLORS["red"]
    np.testing.assert_array_equal(image, expected)


def test_a_square_between_whole_pixels_has_its_area() -> None:
    scene = Scene({}, (ShapeObject("", "white", 8.0, 8.0, 2.5),), 0.0)
    lifted = SquaresWorld().render(scene)[..., 0].astype(float) - BACKGROUND
    rim = lifted[5, 8] / (COLORS["white"][0] - BACKGROUND)
    assert lifted[6, 8] == COLORS["white"][0] - BACKGROUND
    assert rim == pytest.approx(0.5, abs=0.01)


def test_captions_state_every_square() -> None:
    for scene in scenes(200):
        wanted = {c["class"]: c["count"] for c in scene.metadata["include"]}
        drawn = [thing.shape for thing in scene.objects]
        assert {name: drawn.count(name) for name in drawn} == wanted
        assert len({(thing.cx, thing.cy) for thing in scene.objects}) == len(scene.objects)


def test_prompts_read_well() -> None:
    record = two_colors("orange square", 1, "blue square", 3)
    assert record["prompt"] == "a photo of an orange square and three blue squares"
    with pytest.raises(ValueError, match="have no task 'position'; theirs are single_object"):
        draw_record("position", np.random.default_rng(0))


def test_splits_share_single_objects_alone_and_are_the_same_every_time() -> None:
    validation, heldout = (open_suite("scenes@1", split) for split in ("validation", "heldout"))
    tasks = [record["tag"] for record in heldout.records]
    assert [tasks.count(t) for t in ("single_object", "counting", "two_object")] == [10, 50, 100]
    shared = {r["prompt"] for r in validation.records} & {r["prompt"] for r in heldout.records}
    assert len(shared) == 10
    assert heldout.prompts_sha256.startswith(HELDOUT_SHA)
    with pytest.raises(ValueError, match="unknown split 'test' of scenes@1"):
        open_suite("scenes@1", "test")


def test_codec_loses_nothing_and_has_unit_variance() -> None:
    images = floats(scenes(2048))
    codec = RingCodec()
    latents = codec.encode(images)
    assert latents.shape == (2048, 6, 8, 8)
    assert latents.std().item() == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(codec.decode(latents), images, atol=1e-5, rtol=0)


def test_distances_of_latents_are_those_of_pixels() -> None:
    images, codec = floats(scenes(8)), RingCodec()
    pixels = (images[:4] - images[4:]).square().sum((1, 2, 3)).sqrt()
    latents = (codec.encode(images[:4]) - codec.encode(images[4:])).square().sum((1, 2, 3)).sqrt()
    torch.testing.assert_close(latents * codec.std, pixels, rtol=1e-4, atol=0)


def test_signal_is_a_factor_and_part_of_the_identity() -> None:
    images = floats(scenes(2))
    plain, weak = RingCodec(), RingCodec(signal=0.25)
    torch.testing.assert_close(weak.encode(images), plain.encode(images) / 4)
    torch.testing.assert_close(weak.decode(weak.encode(images)), images, atol=1e-5, rtol=0)
    assert plain.digest != weak.digest


def test_codec_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="multiples of 16 pixels, got 24 x 64"):
        RingCodec().encode(torch.zeros(1, 3, 64, 24))


def test_a_token_of_the_network_is_one_cell() -> None:
    """The network cuts latents into tiles of 2 x 2."""
    scene = Scene({}, (ShapeObject("", "red", 24.0, 40.0, 5.0),), 0.0)
    latents = RingCodec().encode(floats([scene]))
    assert (latents[:, :, 4:6, 2:4] != 0).any()
    latents[:, :, 4:6, 2:4] = 0
    assert latents.abs().max() < 1e-5
    torch.testing.assert_close(from_cells(to_cells(latents)), latents)


def test_every_render_is_judged_right() -> None:
    drawn = scenes(400)
    found = SquaresDetector().detect(list(SquaresWorld().render_batch(drawn)))
    for scene, detections in zip(drawn, found, strict=True):
        assert judge(scene.metadata, detections).correct, scene.prompt
        for thing in scene.objects:
            (match,) = [d for d in detections if d.box[0] < thing.cx < d.box[2]
                        and d.box[1] < thing.cy < d.box[3]]  # fmt: skip
            assert match.label == thing.shape
            assert match.box[2] - match.box[0] == pytest.approx(2 * thing.radius, abs=0.5)


def test_a_faded_square_scores_low_and_an_empty_image_has_none() -> None:
    world, scene = SquaresWorld(), Scene({}, (ShapeObject("", "white", 8.0, 8.0, 4.0),), 0.0)
    image = world.render(scene)
    faded = np.rint(BACKGROUND + 0.55 * (image.astype(float) - BACKGROUND)).astype(np.uint8)
    clean, weak, empty = SquaresDetector().detect([image, faded, np.full_like(image, BACKGROUND)])
    assert clean[0].score > 0.99
    assert 0 < weak[0].score < 0.5
    assert empty == []
    with pytest.raises(ValueError, match=r"takes uint8 images of \(64, 64, 3\)"):
        SquaresDetector().detect([image[:32]])


def test_occupancy_is_that_of_every_assignment() -> None:
    odds = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.zeros_like(odds)
    total = torch.zeros(3, dtype=torch.float64)
    for first, second, third in permutations(range(4), 3):
        if first > second:  # two of kind 0 are the same in any order
            continue
        weight = (odds[:, first, 0] + odds[:, second, 0] + odds[:, third, 1]).exp()
        total += weight
        for cell, kind in ((first, 0), (second, 0), (third, 1)):
            expected[:, cell, kind] += weight
    torch.testing.assert_close(occupancy(odds, [2, 1]), expected / total[:, None, None])


@pytest.mark.parametrize("t", [1.0, 0.6, 0.1])
def test_exact_mean_is_the_mean_over_a_list_of_scenes(t: float) -> None:
    """One square of each of two colours: 240 places and 9 x 9 sides are every scene."""
    codec = RingCodec()
    exact = ExactSquares(two_colors("red square", 1, "blue square", 1), codec)
    exact.looks = exact.looks[:, ::12]  # nine sides
    count = exact.looks.shape[1]
    listed = []
    for (a, b), i, j in product(permutations(range(16), 2), range(count), range(count)):
        cells = torch.zeros(16, 24, dtype=torch.float64)
        cells[a], cells[b] = exact.looks[0, i], exact.looks[1, j]
        listed.append(cells)
    every = torch.stack(listed)
    x = torch.randn(3, 6, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    distances = torch.stack(
        [(to_cells(x)[n].flatten(0, 1) - (1 - t) * every).square().sum((1, 2)) for n in range(3)]
    )
    weights = (-distances / (2 * t**2)).softmax(1)
    expected = torch.einsum("bk,kmd->bmd", weights, every)
    torch.testing.assert_close(to_cells(exact.posterior_mean(x, t)).flatten(1, 2), expected)
    assert (exact.scenes_in_use >= 1).all()


def test_exact_model_needs_more_steps_than_two_and_no_list_of_scenes() -> None:
    suite = limited(open_suite("scenes@1"), 3)
    model = ExactGenerator(
        open_world("squares"),
        suite.records,
        RingCodec(),
        num_scenes=2,
        settings=SamplerSettings(eta=0.0),
    )
    scorer = InMemoryScorer(dataclasses.replace(suite, images_per_prompt=4))
    few, many = (mean_over_tasks(scorer(model, steps)) for steps in (2, 8))
    assert few < 0.5
    assert many > 0.9
    assert model.num_scenes == 0


def test_headroom_of_a_closed_form_is_measured_once(tmp_path) -> None:
    code, out, err = selfe_bench("headroom", "--suite", "scenes@1", "--limit", "1", "--steps", "8")
    assert code == 0, err
    assert "all scenes of each prompt; by steps 8: " in out + err
    assert "The mean over all scenes is a closed form; nothing is left to settle." in out


@pytest.mark.parametrize("method", ["selfe", "fm", "imm"])
def test_recipe_fits_the_world(method: str) -> None:
    config = resolve("scenes", method)
    assert (config.data.preset, config.data.codec) == ("squares", "shapes-squares")
    assert config.model.in_channels == 4 * RingCodec.latent_channels
    assert config.data.signal == 1


def test_train_score_and_report(tmp_path) -> None:
    runs = str(tmp_path / "runs")
    words = ["--device", "cpu", "--runs-dir", runs]
    small = ["train.iterations=2", "train.batch_size=4", "data.size=16", "train.sample_every=null"]
    assert selfe_bench("train", "--method", "selfe", "--recipe", "scenes", "--name", "a", *words,
                       *(w for s in small for w in ("--set", s)))[0] == 0  # fmt: skip
    code, out, err = selfe_bench(
        "geneval", "--model", "a", "--steps", "1", "--limit", "1", *words[2:]
    )
    assert code == 0, err
    (result,) = (tmp_path / "runs").rglob("result.json")
    assert json.loads(result.read_text())["protocol"]["suite"] == "scenes@1"
    code, _, err = selfe_bench("export", "a", "--out", str(tmp_path / "pipe"), "--runs-dir", runs)
    assert (code, (tmp_path / "pipe").exists()) == (2, False)
    assert "its codec shapes-squares is no autoencoder of diffusers" in err
    code, out, err = selfe_bench("report", "--runs-dir", runs, "--out", str(tmp_path / "out"))
    assert code == 0, err
    assert "Flow Matching, exact" in (tmp_path / "out" / "README.md").read_text()


def test_counting_prompt_of_many() -> None:
    assert counting("pink square", 8)["prompt"] == "a photo of eight pink squares"
