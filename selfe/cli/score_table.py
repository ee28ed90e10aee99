"""What `geneval` prints: tasks by numbers of steps, every score with its 95% interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evals.base import TASKS, Interval, Result
from selfe.cli.tables import Column, as_table, terminal_width

_CELL = len("0.440 [0.400, 0.480]")
_TASK = max(map(len, TASKS))


def score_tables(results: Sequence[Result], width: int | None = None) -> str:
    """A table per model and protocol, in order; several below each other where room is short.

    Args:
        width: None for that of the terminal.
    """
    width = terminal_width() if width is None else width
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(_title(result), []).append(result)
    at_once = max(1, (width - _TASK) // (_CELL + 2))
    blocks = []
    for title, members in groups.items():
        lines = [" ".join(part for part in title if part)]
        for start in range(0, len(members), at_once):
            lines.append(_table(members[start : start + at_once], width))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _title(result: Result) -> tuple[str, ...]:
    model, protocol = result.model, result.protocol
    at = f"at iteration {model.iterations:,}" if model.iterations else ""
    size = f"{protocol.num_prompts} prompts x {protocol.images_per_prompt}"
    suite = f"on {protocol.suite} {protocol.split}".strip()
    return (model.label, model.variant, at, f"{suite}, {size}")


def _table(members: Sequence[Result], width: int) -> str:
    columns = [Column("task")]
    columns += [Column(str(n), _head(result)) for n, result in enumerate(members)]
    return as_table(list(_rows(members)), columns, width)


def _head(result: Result) -> str:
    if not result.sampling.steps:
        return "score"  # images made elsewhere
    partial = ", PARTIAL" if result.scores.partial else ""
    steps = result.sampling.steps
    return f"{steps} step{'s' * (steps > 1)} (NFE {result.sampling.nfe}){partial}"


def _rows(members: Sequence[Result]) -> Iterator[dict[str, str]]:
    found = {task for result in members for task in result.scores.tasks}
    for task in [*(t for t in TASKS if t in found), *sorted(found - set(TASKS))]:
        cells = [_cell(result.scores.tasks.get(task)) for result in members]
        yield {"task": task, **{str(n): cell for n, cell in enumerate(cells)}}
    cells = [_cell(result.scores.overall) for result in members]
    yield {"task": "overall", **{str(n): cell for n, cell in enumerate(cells)}}


def _cell(score: Interval | None) -> str:
    return "-" if score is None else f"{score.mean:.3f} [{score.low:.3f}, {score.high:.3f}]"
