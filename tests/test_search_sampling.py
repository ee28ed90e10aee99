"""The search of sampling settings: two stages, and diversity where a shift wins."""

from __future__ import annotations

import json

import numpy as np

from scripts.studies.search_sampling import Trial, render, validation_prompts
from selfe.data.shapes_world import ShapesWorld


class Perfect:
    """Draws what is asked for."""

    def __init__(self) -> None:
        self.world = ShapesWorld("grid")
        self.records = {r["prompt"]: r for r in validation_prompts("grid", 1)}

    def generate(self, prompts, num_steps, seeds):
        scenes = [
            self.world.scene_for(dict(self.records[prompt]), np.random.default_rng(seed % 2**32))
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return list(self.world.render_batch(scenes))


def test_the_best_is_found_and_what_was_scored_is_not_scored_again():
    loaded = []

    def load(sampling):
        loaded.append(sampling)
        return Perfect()

    trial = Trial(load, validation_prompts("grid", 1), 2, 2, "grid")
    settings = [{"guidance": "none"}, {"guidance": "linear"}]
    scores = {json.dumps(settings[0]): 0.5}
    assert trial.best(settings, scores, scores.__setitem__) == settings[1]
    assert loaded == [settings[1]] and scores[json.dumps(settings[1])] > 0.9
    told = trial.diversity(settings[1])
    assert set(told) == {"tv", "tv_data"} and 0 < told["tv"] < 1
    page = render({
        "made": {"r": {"command": "c", "commit": "h", "machine": "m", "prompts": 6, "samples": 2,
                       "settings": []}},
        "runs": {"r": {"2 steps": scores, "4 steps": {json.dumps({"shift": -1.0}): 0.7}}},
        "diversity": {"r": {"2 steps": {"without it": told, "with it": told}}},
    })  # fmt: skip
    assert "| shift -1.0 |  | **0.700** |" in page
    assert "At 2 steps a shift wins" in page and f"without it {told['tv']:.3f}" in page
