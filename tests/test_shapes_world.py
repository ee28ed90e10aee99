"""The shapes world: determinism, grammar, what is held out, and the suite's prompts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from evals.suites import shapes as suite
from evals.suites.base import records_sha256
from selfe.data.shapes_world import COLORS, TASKS, ShapesWorld, relation_holds
from selfe.data.shapes_world.renderer import DISTANCES, coverage, object_distances
from selfe.data.shapes_world.vocabulary import plural, with_article

DIGESTS = {
    ("validation", "grid"): "e639d7297be91ef249e9b333368e155e309ca846a77b497cd7ea62d8cab3753e",
    ("heldout", "grid"): "47dbaaff5b4021b71e6e5ef5a8ccfd6f0e67ba102fc9c4cd2e3642235ceea763",
    ("validation", "free"): "b0733103b7de66369685809f760b13d0b8c600f0f4759ea52b4017839f598965",
    ("heldout", "free"): "9424eec4feb5b0eb57079ddbc11f2f1780eb99846c39dfa354ddee312d70e986",
}
PRESETS = ("grid", "free")


@pytest.fixture(scope="module", params=PRESETS)
def world(request):
    return ShapesWorld(request.param)


@pytest.fixture(scope="module")
def scenes(world):
    return [world.training_example(3, i) for i in range(3000)]


def test_an_example_depends_on_seed_and_index_alone(world):
    forward = [world.training_example(11, i) for i in range(20)]
    backward = [world.training_example(11, i) for i in reversed(range(20))][::-1]
    assert forward == backward
    assert forward != [world.training_example(12, i) for i in range(20)]
    batch = world.render_batch(forward)
    assert batch.dtype == np.uint8
    for scene, image in zip(forward, batch, strict=True):
        assert np.array_equal(world.render(scene), image)


def test_tasks_and_colours_are_uniform(world, scenes):
    tags = Counter(scene.metadata["tag"] for scene in scenes)
    assert set(tags) == set(TASKS)
    # 3000 / 6 = 500 with a standard deviation of 20.4; five of them.
    assert max(abs(n - len(scenes) / 6) for n in tags.values()) < 102
    free = Counter(
        o.color for s in scenes if s.metadata["tag"] == "single_object" for o in s.objects
    )
    total = sum(free.values())
    assert max(abs(n - total / 10) for n in free.values()) < 5 * (total * 0.09) ** 0.5


def test_scenes_show_what_their_records_say(world, scenes):
    for scene in scenes:
        wanted = Counter()
        for clause in scene.metadata["include"]:
            wanted[clause["class"]] += clause["count"]
        assert Counter(o.shape for o in scene.objects) == wanted
        for clause in scene.metadata["include"]:
            if "color" in clause:
                (found,) = [o for o in scene.objects if o.shape == clause["class"]]
                assert found.color == clause["color"]
        if scene.metadata["tag"] == "position":
            target, placed = scene.objects
            relation = scene.metadata["include"][1]["position"][0]
            dx, dy = placed.cx - target.cx, placed.cy - target.cy
            assert relation_holds(relation, dx, dy, 2 * (target.radius + placed.radius), 0.6)
            opposite = {"left of": "right of", "above": "below"}
            opposite |= {v: k for k, v in opposite.items()}
            assert not relation_holds(opposite[relation], dx, dy, 0.0)


def test_objects_stay_inside_and_apart(world, scenes):
    for scene in scenes:
        for i, o in enumerate(scene.objects):
            assert o.radius <= min(o.cx, o.cy)
            assert max(o.cx, o.cy) <= world.image_size - o.radius
            for other in scene.objects[:i]:
                gap = max(abs(o.cx - other.cx), abs(o.cy - other.cy)) - o.radius - other.radius
                assert gap >= 0


def test_heldout_pairs_never_stand_beside_another_object(world, scenes):
    assert len(world.heldout_pairs) * 10 == len(world.shapes) * len(world.colors)
    alone = 0
    for scene in scenes:
        pairs = {(o.shape, o.color) for o in scene.objects}
        if len({o.shape for o in scene.objects}) > 1:
            assert not pairs & world.heldout_pairs
            assert not world.is_unseen(scene.metadata)
        alone += bool(pairs & world.heldout_pairs)
    assert alone > 0, "held-out pairs must occur in one-class scenes"


def test_grammar(scenes):
    assert with_article("orange star") == "an orange star"
    assert with_article("ring") == "a ring"
    assert plural("cross") == "crosses" and plural("star") == "stars"
    patterns = {
        "single_object": r"a photo of an? [a-z]+",
        "two_object": r"a photo of an? [a-z]+ and an? [a-z]+",
        "counting": r"a photo of (two|three|four) [a-z]+s",
        "colors": r"a photo of an? [a-z]+ [a-z]+",
        "position": r"a photo of an? [a-z]+ (left of|right of|above|below) an? [a-z]+",
        "color_attr": r"a photo of an? [a-z]+ [a-z]+ and an? [a-z]+ [a-z]+",
    }
    import re

    for scene in scenes:
        assert re.fullmatch(patterns[scene.metadata["tag"]], scene.prompt), scene.prompt


def test_grammar_and_key_order_are_genevals():
    """Our record makers, given the published records' nouns, return the published records."""
    from selfe.data.shapes_world import vocabulary as v

    path = Path(__file__).parents[1] / "../shared/data/geneval/evaluation_metadata.jsonl"
    if not path.is_file():
        pytest.skip("the published list is not here")
    for line in path.read_text().splitlines():
        want = json.loads(line)
        clauses = want["include"]
        names = [c["class"] for c in clauses]
        tag = want["tag"]
        if tag == "single_object":
            got = v.single_object(*names)
        elif tag == "two_object":
            got = v.two_object(*names)
        elif tag == "counting":
            got = v.counting(names[0], clauses[0]["count"])
        elif tag == "colors":
            got = v.colors(names[0], clauses[0]["color"])
        elif tag == "position":
            got = v.position(names[1], names[0], clauses[1]["position"][0])
        else:
            got = v.color_attr(names[0], clauses[0]["color"], names[1], clauses[1]["color"])
        assert json.dumps(got) == json.dumps(want)


@pytest.mark.parametrize("name", sorted(DISTANCES))
def test_shapes_fill_their_square_without_leaving_it(name):
    world = ShapesWorld("free")
    one = np.ones(1)
    distance, _, _ = object_distances(
        world.preset, np.array([world.shapes.index(name)]), 32 * one, 32 * one, 12 * one
    )
    alpha = coverage(distance[0])
    rows, cols = np.flatnonzero(alpha.max(1) > 0.5), np.flatnonzero(alpha.max(0) > 0.5)
    extent = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
    assert 19 <= extent <= 24
    assert ((alpha > 0.02) & (alpha < 0.98)).any(), "edges are anti-aliased"


def test_nuisance_factors_are_what_the_caption_leaves_open(world):
    from selfe.data.shapes_world import vocabulary as v

    kinds = {(f.label, f.kind) for f in world.nuisance_factors(v.colors("ring", "red"))}
    assert kinds == {("ring", "place"), ("ring", "size")}
    factors = world.nuisance_factors(v.two_object("ring", "star"))
    assert {(f.label, f.kind) for f in factors} == {
        (label, kind) for label in ("ring", "star") for kind in ("place", "size", "color")
    }
    side = world.image_size
    corners = {
        world.factor_value("place", (x, y, x + 2, y + 2), None)
        for x in (0, side - 2)
        for y in (0, side - 2)
    }
    assert len(corners) == 4
    assert corners <= set(factors[0].values)
    low, high = (2 * r for r in world.preset.radius)
    sizes = [world.factor_value("size", (0, 0, d, 3), None) for d in (low, high)]
    assert sizes == ["small", "large"]


@pytest.mark.parametrize("preset", PRESETS)
def test_suite_prompts(preset):
    world = ShapesWorld(preset)
    splits = {split: suite.records(split, preset) for split in suite.SPLITS}
    for split, records in splits.items():
        assert records_sha256(records) == DIGESTS[split, preset]
        prompts = [r["prompt"] for r in records]
        assert len(set(prompts)) == len(prompts)
        assert {r["tag"] for r in records} == set(TASKS)
    validation, heldout = ({r["prompt"]: r for r in splits[s]} for s in suite.SPLITS)
    assert {validation[p]["tag"] for p in validation.keys() & heldout.keys()} == {"single_object"}
    assert 80 <= len(validation) <= 120
    assert not any(world.is_unseen(r) for r in validation.values())
    assert sum(world.is_unseen(r) for r in heldout.values()) >= 25


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="grid, free"):
        ShapesWorld("hexagonal")
    with pytest.raises(ValueError, match="validation, heldout"):
        suite.records("test")


def test_colours_are_genevals():
    assert tuple(COLORS) == (
        *("red", "orange", "yellow", "green", "blue"),
        *("purple", "pink", "brown", "black", "white"),
    )


def test_crowded_records_find_a_place():
    """Five objects occur in near-misses only; radii that cannot be placed are drawn again."""
    from selfe.data.shapes_world import vocabulary as v

    world, rng = ShapesWorld("free"), np.random.default_rng(2)
    for _ in range(20):
        assert len(world.scene_for(v.counting("ring", 5), rng).objects) == 5
