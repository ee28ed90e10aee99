"""The compact table: methods by steps, the highest score of a column marked, differences beside.

The same table stands on the terminal (`compact_text`), at the head of the report's README.md and on
the page.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from evals.base import Interval
from evals.multiplicity import NOT_AFTER_HOLM, RESOLVED, holm, verdict
from evals.report.exact_model import NAME, exact_scores
from evals.report.lines import Line, reference_line
from evals.report.markup import is_missing, number, signed, to_markdown
from evals.report.result_folders import ResultFolder
from evals.report.rows import configuration_of, difference
from evals.results import protocol_key

MOST_ROWS = 12
_ONE_TRAINING = "95% intervals, clustered by prompt."
_OVER_SEEDS = (
    "Means over training seeds; their 95% intervals hold for other seeds and other prompts alike."
)


@dataclass(frozen=True)
class CompactCell:
    """One score, and its difference to the reference's at the same steps.

    Attributes:
        best: whether it is the highest of its column.
        delta: None for the reference itself, and where nothing can be compared.
        p_value: of a difference of 0.
        differing: prompts drawn differently; None where there is no exact test over prompts.
        told: what `evals.multiplicity.verdict` says of `delta` among all of the table's.
    """

    score: Interval
    best: bool = False
    delta: Interval | None = None
    p_value: float = math.nan
    differing: int | None = None
    told: str = ""

    @property
    def resolved(self) -> bool:
        """Whether the difference is resolved, among all of the table's."""
        return self.told == RESOLVED

    @property
    def by_itself(self) -> bool:
        """Whether it is resolved by its own interval only."""
        return self.told == NOT_AFTER_HOLM

    @property
    def difference(self) -> str:
        """ "+0.120 [+0.051, +0.189]", with what is to be said where it is not resolved."""
        if self.delta is None:
            return ""
        span = f"{signed(self.delta.mean)} [{signed(self.delta.low)}, {signed(self.delta.high)}]"
        return span if self.resolved else f"{span} {self.told}"

    @property
    def way(self) -> float:
        """The difference to the reference; 0 where there is none."""
        return self.delta.mean if self.delta else 0.0

    @property
    def verdict(self) -> str:
        """ "+0.120 resolved" or "+0.020 not resolved"."""
        return "" if self.delta is None else f"{signed(self.delta.mean)} {self.told}"


@dataclass(frozen=True)
class CompactRow:
    """One configuration.

    Attributes:
        cells: by number of steps.
        main: whether its settings are those of its recipe, or the user gave it a name; headlines
            are of such rows where there are two or more.
        exact: whether it is the exact Flow Matching model, a bound and not a competitor: nothing
            is compared with it, and it is never marked as the highest.
    """

    name: str
    cells: dict[int, CompactCell]
    main: bool = True
    exact: bool = False


@dataclass(frozen=True)
class CompactTable:
    """Overall scores of one protocol.

    Attributes:
        protocol: first ten characters of `protocol_key`.
        title: suite, split and size of the protocol.
        steps: columns; 0 for images made elsewhere.
        reference: name of the row that differences are to; "" where there is none.
        seeds: of the differences over seeds, from fewest to most.
    """

    protocol: str
    title: str
    steps: list[int]
    rows: list[CompactRow]
    reference: str
    over_seeds: bool
    seeds: tuple[int, int] = (1, 1)

    @property
    def _from(self) -> str:
        if not self.over_seeds:
            return "from these prompts"
        fewest, most = self.seeds
        return f"from {fewest if fewest == most else f'{fewest} to {most}'} trainings"

    @property
    def words(self) -> str:
        parts = [_OVER_SEEDS if self.over_seeds else _ONE_TRAINING]
        if sum(not row.exact for row in self.rows) > 1:
            parts.append("The highest mean of a column is marked.")
        if any(row.exact for row in self.rows):
            parts.append(
                f'"{NAME}" is a Flow Matching model that has learnt this world perfectly, without '
                "guidance: 1 minus its score is the headroom, what a number of steps leaves to be "
                "won by other methods."
            )
        if self.reference and any(c.delta for row in self.rows for c in row.cells.values()):
            parts.append(
                f"Below a score: its difference to {self.reference}, paired over prompts"
                f"{' and seeds' if self.over_seeds else ''}. "
                f'"Not resolved": its interval holds 0, so that it cannot be told {self._from}; '
                "there may be a difference."
            )
            if any(cell.by_itself for row in self.rows for cell in row.cells.values()):
                parts.append(
                    '"Resolved, not after Holm": its own interval leaves out 0, but among so many '
                    "differences one such may be chance."
                )
        return " ".join(parts)


def compact_table(
    lines: Sequence[Line], trainings: pd.DataFrame | None = None, baseline: str = ""
) -> CompactTable | None:
    """The table of one protocol; None where there is no complete result.

    Args:
        lines: of the protocol; those that are `usual` get rows.
        trainings: of `trainings_frame`, same protocol: configurations in it get a row over all
            their seeds instead of one for a single training.
        baseline: name of the line that differences are to; Self-E where none is named.

    Raises:
        ValueError: if no line is called `baseline`, with the names there are.
    """
    if not lines:
        return None
    first = lines[0].first
    covered: set[str] = set()
    rows: list[CompactRow] = []
    if trainings is not None and not baseline:
        own = {line.first.result.model.variant for line in lines if line.first.own_name}
        rows, covered = _rows_over_seeds(trainings, own), set(trainings["settings"])
    reference = _reference(lines, baseline)
    reference_name = reference.name if reference else ""
    singles = [line for line in lines if line.usual and settings_of(line.first) not in covered]
    if over_seeds := bool(rows):
        reference_name = next((row.name for row in rows if _is_reference(row)), "Self-E")
        for line in singles:
            if cells := _cells(line, None, False):
                name = f"{line.name} (one training)"
                rows.append(CompactRow(name, cells, bool(line.first.own_name)))
    else:
        for line in singles:
            row = CompactRow(line.name, _cells(line, reference, bool(baseline)))
            if row.cells:
                rows.append(row)
    if not rows:
        return None
    protocol = first.result.protocol
    size = f"{protocol.num_prompts} prompts x {protocol.images_per_prompt} images"
    return CompactTable(
        protocol=protocol_key(protocol)[:10],
        title=", ".join(part for part in (protocol.suite, protocol.split, size) if part),
        steps=sorted({n for row in rows for n in row.cells}),
        rows=[*_with_best(_told_together(rows[:MOST_ROWS])), *_exact_rows(lines)],
        reference=reference_name,
        over_seeds=over_seeds,
        seeds=_seeds(trainings),
    )


def _seeds(trainings: pd.DataFrame | None) -> tuple[int, int]:
    words = [] if trainings is None else trainings["delta_seeds"].dropna()
    counts = [len(str(seeds).split()) for seeds in words] or [1]
    return min(counts), max(counts)


def _told_together(rows: Sequence[CompactRow]) -> list[CompactRow]:
    """The rows with verdicts, adjusted for the number of differences shown (Holm)."""
    compared = [cell for row in rows for cell in row.cells.values() if cell.delta]
    adjusted = dict(zip(map(id, compared), holm([c.p_value for c in compared]), strict=True))

    def told(cell: CompactCell) -> CompactCell:
        if cell.delta is None:
            return cell
        alone = cell.delta.low > 0 or cell.delta.high < 0
        return replace(cell, told=verdict(alone, adjusted[id(cell)], cell.differing))

    return [replace(row, cells={n: told(c) for n, c in row.cells.items()}) for row in rows]


def _exact_rows(lines: Sequence[Line]) -> list[CompactRow]:
    scores = exact_scores([folder for line in lines for folder in line.folders])
    cells = {n: CompactCell(of.overall) for n, of in scores.items() if of.overall is not None}
    measured = {f.result.sampling.steps for line in lines for f in line.folders}
    cells = {n: cell for n, cell in cells.items() if n in measured}
    return [CompactRow(NAME, cells, main=False, exact=True)] if cells else []


def _is_reference(row: CompactRow) -> bool:
    return all(cell.delta is None for cell in row.cells.values())


def _reference(lines: Sequence[Line], baseline: str) -> Line | None:
    if baseline:
        for line in lines:
            if line.name == baseline:
                return line
        names = ", ".join(line.name for line in lines)
        raise ValueError(f"no configuration is called {baseline!r}; there are: {names}")
    return reference_line(lines)


def _cells(line: Line, reference: Line | None, named: bool) -> dict[int, CompactCell]:
    """Scores at the line's last iteration; compared at equal iterations only, unless the user named
    the baseline."""
    cells: dict[int, CompactCell] = {}
    for folder in line.folders:
        scores = folder.result.scores
        if not line.is_final(folder) or scores.overall is None or scores.partial:
            continue
        steps = folder.result.sampling.steps
        other = reference_for(folder, reference, named) if reference not in (None, line) else None
        delta = difference(folder, other) if other is not None else None
        cells[steps] = CompactCell(
            scores.overall,
            delta=delta.interval if delta else None,
            p_value=delta.p_value if delta else math.nan,
            differing=delta.differing if delta else None,
        )
    return cells


def reference_for(folder: ResultFolder, reference: Line | None, named: bool) -> ResultFolder | None:
    """The reference's result that a result is compared with: same steps and iterations; of a
    baseline that the user named, its last iteration where it has no such one."""
    if reference is None:
        return None
    steps, iterations = folder.result.sampling.steps, folder.result.model.iterations
    for other in reference.folders:
        model = other.result.model
        if other.result.sampling.steps == steps and model.iterations == iterations:
            return other
    return reference.final_at(steps) if named or iterations is None else None


def settings_of(folder: ResultFolder) -> str:
    """What `trainings_frame` has in its column "settings"; "" where it is not recorded."""
    configuration = configuration_of(folder)
    return configuration[0][:8] if configuration else ""


def _rows_over_seeds(frame: pd.DataFrame, own: Collection[str]) -> list[CompactRow]:
    """A row per configuration at its last iteration, Self-E first; `own` variants have a name of
    the user's."""
    rows: list[CompactRow] = []
    several = frame["recipe"].nunique() > 1
    keys = ["recipe", "method", "variant", "settings"]
    for key, members in frame.groupby(keys, sort=False):
        last = members[members["iterations"] == members["iterations"].max()]
        cells: dict[int, CompactCell] = {}
        seeds = last["training_seed"].str.count(" ").sort_values(ascending=False, kind="stable")
        # of two ways of drawing at one number of steps, that of most seeds
        for _, row in last.loc[seeds.index].drop_duplicates("steps").iterrows():
            score = Interval(mean=row["overall"], low=row["overall_low"], high=row["overall_high"])
            delta = None
            if not is_missing(row["delta_selfe"]):
                delta = Interval(
                    mean=row["delta_selfe"], low=row["delta_low"], high=row["delta_high"]
                )
            p_value = float(row["p_value"]) if delta else math.nan
            cells[int(row["steps"])] = CompactCell(score, delta=delta, p_value=p_value)
        added = ", ".join(str(part) for part in (key[2], key[0] if several else "") if part)
        name = f"{key[1]} ({added})" if added else str(key[1])
        rows.append(CompactRow(name, cells, main=not added or key[2] in own))
    return sorted(rows, key=lambda row: not _is_reference(row))


def _with_best(rows: Sequence[CompactRow]) -> list[CompactRow]:
    if len(rows) < 2:
        return list(rows)
    highest: dict[int, float] = {}
    for row in rows:
        for steps, cell in row.cells.items():
            highest[steps] = max(highest.get(steps, 0.0), cell.score.mean)
    return [
        replace(
            row,
            cells={
                steps: replace(cell, best=cell.score.mean == highest[steps] > 0)
                for steps, cell in row.cells.items()
            },
        )
        for row in rows
    ]


def column_name(steps: int) -> str:
    return f"{steps} step{'s' * (steps != 1)}" if steps else "made elsewhere"


def compact_markdown(table: CompactTable) -> str:
    """Scores with their intervals, and the differences in a second table."""
    header = ["", *map(column_name, table.steps)]
    scores, differences = [], []
    for row in table.rows:
        texts = []
        for steps in table.steps:
            cell = row.cells.get(steps)
            text = f"{number(cell.score.mean)}" if cell else ""
            text = f"**{text}**" if cell and cell.best else text
            span = f" [{number(cell.score.low)}, {number(cell.score.high)}]" if cell else ""
            texts.append(text + span)
        scores.append([row.name, *texts])
        found = [row.cells[n].difference if n in row.cells else "" for n in table.steps]
        if any(found):
            differences.append([row.name, *found])
    parts = [to_markdown(header, scores)]
    if differences:
        parts.append(f"Difference to {table.reference}:\n\n{to_markdown(header, differences)}")
    return "\n".join(parts)
