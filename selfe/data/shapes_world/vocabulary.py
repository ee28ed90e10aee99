"""The words of the shapes world: tasks, colours, shapes, and GenEval's caption grammar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 28, 28),
    "orange": (255, 140, 0),
    "yellow": (250, 232, 40),
    "green": (30, 165, 50),
    "blue": (30, 70, 225),
    "purple": (125, 35, 170),
    "pink": (255, 150, 200),
    "brown": (115, 65, 25),
    "black": (10, 10, 10),
    "white": (248, 248, 248),
}
"""GenEval's ten colours, in its order, as sRGB values of the renderer."""

GRID_SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
FREE_SHAPES = (*GRID_SHAPES, "diamond", "heart", "moon", "arrow", "frame", "pill")


@dataclass(frozen=True)
class Preset:
    """One size of the world.

    Attributes:
        name: "grid" or "free".
        image_size: side of the square image in pixels.
        shapes: the class names, in the order of every class index.
        radius: smallest and largest radius in pixels; a shape fits in the box of side two radii.
        cells: cells per side of the layout, or 0 where positions are free.
        jitter: greatest displacement from the centre of a cell, per axis, in pixels.
        bins: position bins per side used by the diversity statistic.
    """

    name: str
    image_size: int
    shapes: tuple[str, ...]
    radius: tuple[float, float]
    cells: int
    jitter: float
    bins: int


PRESETS = {
    "grid": Preset("grid", 32, GRID_SHAPES, (5.0, 6.5), cells=2, jitter=1.5, bins=2),
    "free": Preset("free", 64, FREE_SHAPES, (7.0, 12.0), cells=0, jitter=0.0, bins=3),
}


def with_article(noun: str) -> str:
    """'an' before a vowel letter, else 'a'."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str) -> str:
    """'es' after a final 's', else 's'."""
    return noun + ("es" if noun.endswith("s") else "s")


def single_object(name: str) -> dict[str, Any]:
    return {
        "tag": "single_object",
        "include": [{"class": name, "count": 1}],
        "prompt": f"a photo of {with_article(name)}",
    }


def two_object(a: str, b: str) -> dict[str, Any]:
    return {
        "tag": "two_object",
        "include": [{"class": a, "count": 1}, {"class": b, "count": 1}],
        "prompt": f"a photo of {with_article(a)} and {with_article(b)}",
    }


def counting(name: str, count: int) -> dict[str, Any]:
    return {
        "tag": "counting",
        "include": [{"class": name, "count": count}],
        "exclude": [{"class": name, "count": count + 1}],
        "prompt": f"a photo of {NUMBERS[count]} {plural(name)}",
    }


def colors(name: str, color: str) -> dict[str, Any]:
    return {
        "tag": "colors",
        "include": [{"class": name, "count": 1, "color": color}],
        "prompt": f"a photo of {with_article(color)} {name}",
    }


def position(a: str, b: str, relation: str) -> dict[str, Any]:
    return {
        "tag": "position",
        "include": [
            {"class": b, "count": 1},
            {"class": a, "count": 1, "position": [relation, 0]},
        ],
        "prompt": f"a photo of {with_article(a)} {relation} {with_article(b)}",
    }


def color_attr(a: str, color_a: str, b: str, color_b: str) -> dict[str, Any]:
    return {
        "tag": "color_attr",
        "include": [
            {"class": a, "count": 1, "color": color_a},
            {"class": b, "count": 1, "color": color_b},
        ],
        "prompt": f"a photo of {with_article(color_a)} {a} and {with_article(color_b)} {b}",
    }


def draw_record(tag: str, shapes: tuple[str, ...], rng: np.random.Generator) -> dict[str, Any]:
    """One record of a task, by GenEval's draws with shapes as nouns: classes, then count, relation
    or colours. Two objects of one record always differ in class, and in color_attr in colour."""
    n = len(shapes)
    if tag == "single_object":
        return single_object(shapes[int(rng.integers(n))])
    if tag == "counting":
        return counting(shapes[int(rng.integers(n))], int(rng.integers(2, 4, endpoint=True)))
    if tag == "colors":
        name = shapes[int(rng.integers(n))]
        return colors(name, tuple(COLORS)[int(rng.integers(len(COLORS)))])
    a, b = _two_different(n, rng)
    if tag == "two_object":
        return two_object(shapes[a], shapes[b])
    if tag == "position":
        return position(shapes[a], shapes[b], RELATIONS[int(rng.integers(len(RELATIONS)))])
    if tag == "color_attr":
        color_a, color_b = _two_different(len(COLORS), rng)
        names = tuple(COLORS)
        return color_attr(shapes[a], names[color_a], shapes[b], names[color_b])
    raise ValueError(f"unknown task {tag!r}; the tasks are {', '.join(TASKS)}")


def _two_different(n: int, rng: np.random.Generator) -> tuple[int, int]:
    """An ordered pair without replacement, uniform; ten times faster than Generator.choice."""
    first = int(rng.integers(n))
    second = int(rng.integers(n - 1))
    return first, second + (second >= first)
