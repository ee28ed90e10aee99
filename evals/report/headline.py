"""What a report found, a sentence for every number of steps."""

from __future__ import annotations

from collections.abc import Mapping

from evals.report.compact import CompactCell, CompactTable, column_name
from evals.report.markup import number, signed
from evals.report.reference import BASELINE_LABEL, REFERENCE_LABEL

_MOST_NAMES = 4


def headline(table: CompactTable) -> list[str]:
    """A short sentence per number of steps: the reference, and what is resolved against it."""
    measured = [row for row in table.rows if not row.exact]
    main = [row for row in measured if row.main]
    rows = main if len(main) > 1 else measured
    sentences = []
    for steps in table.steps:
        scored = [(row.name, row.cells[steps]) for row in rows if steps in row.cells]
        if not scored:
            continue
        scored.sort(key=lambda pair: -pair[1].score.mean)
        first = next((pair for pair in scored if pair[0] == table.reference), scored[0])
        others = [pair for pair in scored if pair is not first]
        where = f"At {column_name(steps)}" if steps else "Of images made elsewhere"
        parts = [f"{where}: {first[0]} {number(first[1].score.mean)}"]
        for words, chosen in (
            ("resolved above it", [p for p in others if p[1].resolved and p[1].way > 0]),
            ("resolved below it", [p for p in others if p[1].resolved and p[1].way < 0]),
            ("resolved by itself only", [p for p in others if p[1].by_itself]),
            ("not resolved", [p for p in others if p[1].delta and not _told_apart(p[1])]),
            ("not compared", [p for p in others if p[1].delta is None]),
        ):
            if chosen:
                names = [f"{name} {number(cell.score.mean)}" for name, cell in chosen[:_MOST_NAMES]]
                more = len(chosen) - len(names)
                names += [f"{more} more"] if more else []
                parts.append(f"{words}: {', '.join(names)}")
        sentences.append("; ".join(parts) + ".")
    room = headroom_sentence(table)
    return [*sentences, room] if room else sentences


def _told_apart(cell: CompactCell) -> bool:
    return cell.resolved or cell.by_itself


def headroom_sentence(table: CompactTable) -> str:
    """What the steps alone cost a perfect Flow Matching model, and Self-E's lead over the trained
    one beside it; "" where the former is not known."""
    exact = next((row for row in table.rows if row.exact), None)
    if exact is None:
        return ""
    rooms = {n: 1 - cell.score.mean for n, cell in sorted(exact.cells.items())}
    listed = ", ".join(f"{number(room)} at {n}" for n, room in rooms.items())
    sentences = [
        "Headroom, what the number of steps costs a perfect Flow Matching model without guidance: "
        f"{listed} steps. Where it is near 0, methods differ by what they have learnt."
    ]
    if leads := _leads(table, rooms):
        sentences.append(f"Self-E's lead over Flow Matching beside it: {', '.join(leads)}.")
    return " ".join(sentences)


def _leads(table: CompactTable, rooms: Mapping[int, float]) -> list[str]:
    """Differences at the numbers of steps whose headroom is known."""
    row = next((row for row in table.rows if row.name == BASELINE_LABEL), None)
    if row is None or table.reference != REFERENCE_LABEL:
        return []
    leads = []
    for steps, room in rooms.items():
        cell = row.cells.get(steps)
        if cell is None or cell.delta is None:
            continue
        mark = "" if cell.resolved else f", {cell.told}"
        leads.append(f"{signed(-cell.delta.mean)} where it is {number(room)} ({steps} steps{mark})")
    return leads
