"""Worlds by the name of their preset."""

from __future__ import annotations

from selfe.data.shapes_world.squares import SquaresWorld
from selfe.data.shapes_world.vocabulary import PRESETS
from selfe.data.shapes_world.world import ShapesWorld

WORLDS = (*PRESETS, "squares")


def open_world(preset: str) -> ShapesWorld:
    """The world of a preset.

    Raises:
        ValueError: for an unknown one, listing those there are.
    """
    if preset not in WORLDS:
        raise ValueError(f"unknown shapes preset {preset!r}; the presets are {', '.join(WORLDS)}")
    return SquaresWorld() if preset == "squares" else ShapesWorld(preset)
