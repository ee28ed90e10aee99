"""Which results are one line of a chart, and what it is called.

A line is one training (or one published model) at any number of steps and iterations. Where an
iteration and number of steps was measured under several sampling settings, the model's own are the
line's and the others are lines of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evals.report.curves import STYLES
from evals.report.groups import PAPER_VARIANTS
from evals.report.model_columns import eta_of, guidance_text, setting_text
from evals.report.reference import REFERENCE_METHOD
from evals.report.result_folders import ResultFolder
from evals.report.rows import _preference, only_the_seed_differs
from evals.results import protocol_key

MOST_USUAL = 6
"""Lines drawn where the reader chose none."""


def short_id(*parts: object) -> str:
    """An identifier that stays the same when other results come or go."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:10]


@dataclass
class Line:
    """Results of one model under one protocol.

    Attributes:
        id: of the protocol, the training and, for further settings, these.
        name: unique within the protocol.
        folders: its results, by iterations and steps.
        style: place in the palette; methods of the paper keep theirs.
        usual: whether it is drawn unless the reader chooses.
        further: whether it holds other sampling settings than the model's own.
    """

    id: str
    protocol: str
    name: str
    folders: list[ResultFolder] = field(default_factory=list)
    style: int = 0
    usual: bool = False
    further: bool = False

    @property
    def first(self) -> ResultFolder:
        return self.folders[0]

    @property
    def last_iterations(self) -> int | None:
        known = [f.result.model.iterations for f in self.folders if f.result.model.iterations]
        return max(known, default=None)

    def is_final(self, folder: ResultFolder) -> bool:
        return folder.result.model.iterations == self.last_iterations

    def final_at(self, steps: int) -> ResultFolder | None:
        for folder in self.folders:
            if folder.result.sampling.steps == steps and self.is_final(folder):
                return folder
        return None


def build_lines(
    folders: Sequence[ResultFolder], names: Mapping[str, str] | None = None
) -> list[Line]:
    """Lines of all protocols, those the paper compares first.

    Args:
        folders: results in any order.
        names: name of a result (`ResultFolder.name`) -> what the user calls its run; others are
            named by method.
    """
    trainings: dict[tuple[Any, ...], list[ResultFolder]] = {}
    for folder in folders:
        model = folder.result.model
        facts = model.training
        own = (
            folder.run,
            facts.get("config_digest"),
            facts.get("seed"),
            facts.get("init_from"),
        )
        key = (protocol_key(folder.result.protocol)[:10], *own, model.method, model.variant)
        trainings.setdefault(key, []).append(folder)
    lines: list[Line] = []
    for key, members in trainings.items():
        lines += _settings_apart(key, members)
    lines.sort(key=_rank)
    _name(lines, names or {})
    _choose(lines)
    return lines


def reference_line(lines: Sequence[Line]) -> Line | None:
    """The line that others are compared with where the reader names none: the reference method
    without ablations, drawn with its own settings; None if there is no such line."""
    for line in lines:
        model = line.first.result.model
        if model.method == REFERENCE_METHOD and not model.variant and not line.further:
            return line
    return None


def _settings_apart(key: tuple[Any, ...], members: Sequence[ResultFolder]) -> list[Line]:
    """The model's own settings as one line, every further setting as another."""
    cells: dict[tuple[int, int], list[ResultFolder]] = {}
    for folder in members:
        cell = (folder.result.model.iterations or 0, folder.result.sampling.steps)
        cells.setdefault(cell, []).append(folder)
    main = Line(short_id(*key), key[0], "")
    others: dict[tuple[str, int], Line] = {}
    for cell in sorted(cells):
        first, *more = sorted(cells[cell], key=_preference)
        main.folders.append(first)
        seen: Counter[str] = Counter()
        for folder in more:
            words = sampling_words(folder)
            seen[words] += 1
            place = (words, seen[words])
            line = others.setdefault(place, Line(short_id(*key, *place), key[0], "", further=True))
            line.folders.append(folder)
    return [main, *others.values()]


def sampling_words(folder: ResultFolder) -> str:
    """Guidance, eta and sampler of a result in a few words."""
    eta = eta_of(folder.result)
    guidance = guidance_text(folder.result)
    parts = [f"guidance {guidance}" if guidance else "", "" if eta is None else f"eta {eta:g}"]
    return ", ".join(part for part in (*parts, setting_text(folder.result)) if part)


def _rank(line: Line) -> tuple[Any, ...]:
    model = line.first.result.model
    order = list(STYLES)
    known = (model.method, model.variant)
    place = order.index(known) if known in order else len(order)
    method = (model.method, "")
    near = order.index(method) if method in order else len(order)
    seed = model.training.get("seed")
    seed = seed if isinstance(seed, int) else -1
    return (line.further, near, place, -len(line.folders), model.label, seed, line.first.name)


def _name(lines: Sequence[Line], names: Mapping[str, str]) -> None:
    """The shortest name that tells a line from the others of its protocol: the method's, with the
    training seed, with the run."""
    for line in lines:
        line.name = _method_name(line, names)
    for more in (_seed_words, _run_words, _sampling_words, lambda line: line.id):
        counts = Counter((line.protocol, line.name) for line in lines)
        for line in lines:
            if counts[line.protocol, line.name] > 1 and (words := more(line)):
                if words not in line.name:
                    line.name = f"{line.name}, {words}"


def _method_name(line: Line, names: Mapping[str, str]) -> str:
    model = line.first.result.model
    if line.first.name in names:
        return names[line.first.name]
    variant = PAPER_VARIANTS.get(model.variant, model.variant)
    return f"{model.label} ({variant})" if variant else model.label


def _seed_words(line: Line) -> str:
    seed = line.first.result.model.training.get("seed")
    return "" if seed is None else f"seed {seed}"


def _run_words(line: Line) -> str:
    return line.first.run


def _sampling_words(line: Line) -> str:
    return sampling_words(line.first) if line.further else ""


def _choose(lines: Sequence[Line]) -> None:
    """Styles, and the lines that are drawn at first: of every configuration one training, the
    user's own ablations among them, but without those of the paper and further settings, unless
    there is nothing else."""
    by_protocol: dict[str, list[Line]] = {}
    for line in lines:
        by_protocol.setdefault(line.protocol, []).append(line)
    for own in by_protocol.values():
        taken: list[Line] = []
        methods = [line for line in own if not line.further and not line.first.result.model.variant]
        named = [line for line in own if not line.further and line.first.own_name]
        for line in [*methods, *named]:
            method = line.first.result.model.method
            alike = [o for o in taken if o.first.result.model.method == method]
            if len(taken) >= MOST_USUAL or (len(alike) >= 2 and not line.first.own_name):
                continue
            if not any(only_the_seed_differs(line.first, other.first) for other in taken):
                taken.append(line)
        for line in taken or own[:MOST_USUAL]:
            line.usual = True
        _give_styles(own)


def _give_styles(lines: Sequence[Line]) -> None:
    """A method's first line keeps its colour of the figures; the others take the next free."""
    order = [key for key in STYLES if not key[1]]
    used: set[int] = set()
    spare = len(order)
    for line in sorted(lines, key=lambda line: not line.usual):
        key = (line.first.result.model.method, "")
        place = order.index(key) if key in order else -1
        if place < 0 or place in used:
            place = spare
            spare += 1
        used.add(place)
        line.style = place
