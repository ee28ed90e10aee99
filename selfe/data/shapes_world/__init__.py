"""The shapes world: a procedural stand-in for photographs, with GenEval's captions and tasks."""

from selfe.data.shapes_world.presets import WORLDS, open_world
from selfe.data.shapes_world.scenes import Scene, ShapeObject, relation_holds
from selfe.data.shapes_world.vocabulary import (
    COLORS,
    PRESETS,
    RELATIONS,
    TASKS,
    Preset,
    draw_record,
)
from selfe.data.shapes_world.world import NuisanceFactor, ShapesWorld

__all__ = [
    "COLORS",
    "PRESETS",
    "RELATIONS",
    "TASKS",
    "WORLDS",
    "NuisanceFactor",
    "Preset",
    "Scene",
    "ShapeObject",
    "ShapesWorld",
    "draw_record",
    "open_world",
    "relation_holds",
]
