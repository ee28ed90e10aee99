"""Configurations as the published runs of the shapes world had them."""

from __future__ import annotations

from typing import Any

from selfe.config.resolve import resolve, validate
from selfe.config.schema import RunConfig

SAMPLING: dict[str, dict[str, Any]] = {
    "fm": {
        "guidance": "linear",
        "guidance_scale": 2.0,
        "eta": 0.0,
        "by_steps": {50: {"guidance": "ep-v", "guidance_scale": 3.0, "eta": 1.0}},
    },
    "selfe": {
        "guidance": "linear",
        "guidance_scale": 2.0,
        "eta": 1.0,
        "by_steps": {
            4: {"guidance_scale": 3.0, "eta": 0.0},
            8: {"guidance": "ep-v", "guidance_scale": 3.0},
            50: {"guidance": "linear", "guidance_scale": 2.0},
        },
    },
}
"""How the rows of the methods drew them then."""


def published(recipe: str, method: str, *assignments: str) -> RunConfig:
    """With all the signal that the world had, the rate of then, and drawn as then."""
    then = ["data.signal=1", *(["optim.lr=2e-3"] if recipe == "shapes" else [])]
    config = resolve(recipe, method, assignments=[*then, *assignments])
    return validate(config.model_dump(mode="json") | {"sampling": SAMPLING[method]})
