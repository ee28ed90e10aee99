"""What the page shows of results: lines, means, differences, verdicts, one protocol at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evals.report.compact import CompactTable, column_name, compact_table, settings_of
from evals.report.headline import headline
from evals.report.lines import Line, build_lines, reference_line
from evals.report.markup import number as as_number
from evals.report.page import telling_apart
from evals.report.result_folders import ResultFolder
from evals.report.rows import reading_notes
from evals.report.training_seeds import trainings_frame
from evals.site import summary as facts
from evals.site.differences import difference_rows, mean_differences
from evals.site.files import PageFiles, data_script
from evals.site.pictures import Sheets, prompt_texts, result_data
from evals.site.runs import RunRecord


class PageContent:
    """What the page shows of results, collected one protocol after the other.

    Args:
        folders: all results; a result's number is its place among them.
        runs: training runs by name.
        names: see `render_page`.
        baseline: see `render_page`.

    Attributes:
        sheets: where the image of every result stands; to be set before `add_protocol`.
        lists: parts of data.js that every protocol adds to.
        overview: tables and sentences at the head of index.html, by protocol.
    """

    def __init__(
        self,
        folders: Sequence[ResultFolder],
        runs: Mapping[str, RunRecord],
        names: Mapping[str, str],
        baseline: str,
    ) -> None:
        self.folders, self.runs = folders, runs
        self.sheets = Sheets()
        self.named, self.baseline = bool(names), baseline
        self.ids = facts.ResultIds.of(folders)
        self.apart = telling_apart(folder.result.protocol for folder in folders)
        self.lines: dict[str, list[Line]] = {}
        self.line_of: dict[int, Line] = {}
        for line in build_lines(folders, names):
            if names:
                line.usual = not line.further and line.first.name in names
            self.lines.setdefault(line.protocol, []).append(line)
            self.line_of |= {id(folder): line for folder in line.folders}
        known = {line.name: None for line in self.line_of.values()}
        if baseline and baseline not in known:
            raise ValueError(
                f"no configuration is called {baseline!r}; there are: {', '.join(known)}"
            )
        parts = ("protocols", "exact", "lines", "means", "differences", "results")
        self.lists: dict[str, list[Any]] = {part: [] for part in parts}
        self.overview: list[dict[str, Any]] = []

    def protocols_by_size(self) -> list[tuple[str, list[int]]]:
        """Protocols with the numbers of their results, the one with most results first."""
        members: dict[str, list[int]] = {}
        for number, folder in enumerate(self.folders):
            members.setdefault(facts.protocol_id(folder), []).append(number)
        return sorted(members.items(), key=lambda item: -len(item[1]))

    def tiers(self) -> list[int]:
        """How soon the gallery shows a result: 0 what it shows at first, 1 other results at the
        last iteration, 2 those of earlier ones. Sheets of images that are seen together are few."""
        tiers = []
        for folder in self.folders:
            line = self.line_of[id(folder)]
            tiers.append((0 if line.usual else 1) if line.is_final(folder) else 2)
        return tiers

    def add_protocol(
        self, protocol: str, numbers: Sequence[int], frame: pd.DataFrame | None, files: PageFiles
    ) -> None:
        """Add one protocol's results and write the files with their images' verdicts.

        Args:
            frame: of `trainings_frame`; None to compute it.
        """
        own = [self.folders[number] for number in numbers]
        lines = self.lines[protocol]
        if frame is None:
            frame = trainings_frame(own)
        self.lists["protocols"].append(facts.protocol_facts(own[0], self.apart))
        self.lists["exact"] += facts.exact_lines(protocol, own)
        means = self._add_lines(protocol, lines, frame)
        rows = difference_rows(
            self.folders,
            self.ids,
            lines,
            _reference(lines, self.baseline),
            bool(self.baseline),
            mean_differences(frame, means),
        )
        self.lists["differences"] += [rows] if rows else []
        self._add_results(protocol, numbers, files)
        # scored under this protocol or not, the baseline is one of the configurations
        here = self.baseline if any(line.name == self.baseline for line in lines) else ""
        table = compact_table(lines, frame if len(frame) else None, here)
        self.overview.append(
            {
                "protocol": protocol,
                "headline": headline(table) if table and len(table.rows) > 1 else [],
                "table": _overview_table(table) if table else None,
                "notes": reading_notes(_shown(lines)),
            }
        )

    def _add_lines(
        self, protocol: str, lines: Sequence[Line], frame: pd.DataFrame
    ) -> list[dict[str, Any]]:
        """Add trainings and means over seeds; returns the means."""
        means, points = facts.mean_lines(frame, protocol, lines)
        if self.named:
            means = [mean | {"usual": False} for mean in means]
        averaged = set(frame["settings"]) if any(mean["usual"] for mean in means) else set()
        self.lists["lines"] += means
        self.lists["means"] += points
        for line in lines:
            alone = settings_of(line.first) not in averaged
            values = facts.line_facts(line, False)
            self.lists["lines"].append(values | {"usual": line.usual and alone})
        return means

    def _add_results(self, protocol: str, numbers: Sequence[int], files: PageFiles) -> None:
        order = _write_prompts(files, protocol, [self.folders[number] for number in numbers])
        for number in numbers:
            folder, name = self.folders[number], self.ids.ids[number]
            run = self.runs.get(folder.run)
            seconds = run.seconds_at(folder.result.model.iterations) if run else None
            line = self.line_of[id(folder)]
            self.lists["results"].append(facts.result_facts(folder, name, line, seconds))
            images = result_data(number, folder, order, self.sheets)
            files.write(f"page/data/r-{name}.js", data_script("SELFE_GOT", f"r-{name}", images))


def _shown(lines: Sequence[Line]) -> list[ResultFolder]:
    return [f for line in lines if line.usual for f in line.folders if line.is_final(f)]


def _reference(lines: Sequence[Line], baseline: str) -> Line | None:
    if baseline:
        return next((line for line in lines if line.name == baseline), None)
    return reference_line(lines) or next(iter(lines), None)


def _write_prompts(files: PageFiles, protocol: str, folders: Sequence[ResultFolder]) -> dict:
    """Captions, tasks and the order of images of a protocol; returns the order."""
    images: dict[tuple[int, int], str] = {}
    for folder in folders:
        frame = folder.verdicts
        if len(images) == len(frame) and folder is not folders[0]:
            continue  # the same set
        for prompt, sample, tag in zip(
            frame["prompt_id"], frame["sample_id"], frame["tag"], strict=True
        ):
            images[int(prompt), int(sample)] = str(tag)
    keys = sorted(images)
    texts = prompt_texts(folders)
    prompts = {prompt: images[prompt, sample] for prompt, sample in reversed(keys)}
    value = {
        "prompts": [[prompt, prompts[prompt], texts.get(prompt, "")] for prompt in sorted(prompts)],
        "images": keys,
    }
    files.write(f"page/data/p-{protocol}.js", data_script("SELFE_GOT", f"p-{protocol}", value))
    return {key: place for place, key in enumerate(keys)}


def _overview_table(table: CompactTable) -> dict[str, Any]:
    rows = []
    for row in table.rows:
        cells: list[dict[str, Any] | None] = []
        for steps in table.steps:
            cell = row.cells.get(steps)
            if cell is None:
                cells.append(None)
                continue
            score = cell.score
            cells.append(
                {
                    "score": as_number(score.mean),
                    "interval": f"[{as_number(score.low)}, {as_number(score.high)}]",
                    "best": cell.best,
                    "difference": cell.verdict,
                    "span": cell.difference,
                }
            )
        rows.append({"name": row.name, "cells": cells})
    return {
        "corner": "Overall score",
        "columns": [column_name(n) for n in table.steps],
        "rows": rows,
        "words": table.words,
    }
