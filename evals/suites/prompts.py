"""From a prompt in GenEval's grammar to the record that judges it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.suites.rules import COLORS, RELATIONS
from selfe.data.shapes_world import vocabulary as grammar

_START = "a photo of "
EXAMPLES = (
    "a photo of a bench",
    "a photo of a bench and a dog",
    "a photo of three dogs",
    "a photo of a red bench",
    "a photo of a dog right of a bench",
    "a photo of a red dog and a blue bench",
)


def record_of(prompt: str, classes: Sequence[str]) -> dict[str, Any]:
    """The record of a prompt that is worded as GenEval words its own.

    Args:
        prompt: one of the six forms in `EXAMPLES`; case and a final full stop do not matter.
        classes: names of objects that the detector knows.

    Returns:
        tag, include, (exclude,) and prompt, as in GenEval's metadata.

    Raises:
        ValueError: if the prompt has another form or names an unknown object or colour: a record
            written by hand judges it.
    """
    text = " ".join(prompt.lower().split()).removesuffix(".")
    lower = {name.lower(): name for name in classes}
    for record in _candidates(text, lower):
        if record["prompt"].lower() == text:
            return {**record, "prompt": prompt}
    raise ValueError(
        f"no record for the prompt {prompt!r}: it is worded like none of GenEval's "
        f"({'; '.join(EXAMPLES)}){_hint(text, list(lower))}; give a record (tag, include, exclude) "
        "in its place"
    )


def check_records(records: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
    """Raises ValueError for a clause whose object the detector does not know."""
    known = set(classes)
    for number, record in enumerate(records):
        for clause in (*record["include"], *record.get("exclude", ())):
            if clause["class"] not in known:
                near = difflib.get_close_matches(clause["class"], classes, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(
                    f"record {number}: the detector knows no {clause['class']!r}{hint}"
                )


def _candidates(text: str, classes: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Records whose prompt may be the text; `record_of` compares."""
    if not text.startswith(_START):
        return
    rest = text.removeprefix(_START)
    single = _noun(rest, classes)
    if single is not None:
        color, name = single
        yield grammar.colors(name, color) if color else grammar.single_object(name)
    number, _, things = rest.partition(" ")
    if number in grammar.NUMBERS:
        for name in classes.values():
            if grammar.plural(name).lower() == things:
                yield grammar.counting(name, grammar.NUMBERS.index(number))
    for relation in ("and", *RELATIONS):
        for match in re.finditer(rf" {relation} ", rest):
            a, b = (_noun(part, classes) for part in (rest[: match.start()], rest[match.end() :]))
            if a is None or b is None:
                continue
            (color_a, name_a), (color_b, name_b) = a, b
            if relation != "and":
                yield grammar.position(name_a, name_b, relation)
            elif color_a and color_b:
                yield grammar.color_attr(name_a, color_a, name_b, color_b)
            else:
                yield grammar.two_object(name_a, name_b)


def _noun(text: str, classes: Mapping[str, str]) -> tuple[str, str] | None:
    """("red", "bench") of "a red bench", ("", "bench") of "a bench"; None for anything else."""
    article, _, rest = text.partition(" ")
    if article not in ("a", "an"):
        return None
    if rest in classes:  # an orange is a fruit, too
        return "", classes[rest]
    color, _, name = rest.partition(" ")
    return (color, classes[name]) if color in COLORS and name in classes else None


def _hint(text: str, classes: Sequence[str]) -> str:
    """The nearest known object of a word that is none."""
    for word in text.removeprefix(_START).split():
        near = difflib.get_close_matches(word, classes, n=1, cutoff=0.75)
        if near and near[0] != word and word not in (*COLORS, "a", "an", "and"):
            return f"; did you mean {near[0]!r}?"
    return ""
