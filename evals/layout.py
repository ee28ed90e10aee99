"""Tables 1 and 2 laid out for readers: Markdown and LaTeX from the frames of `evals.tables`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from evals.base import ProtocolFacts
from evals.collection import protocol_slug
from evals.commands import STEPS, not_run
from evals.markup import (
    is_missing,
    latex_document,
    latex_paragraph,
    number,
    plain,
    signed,
    to_latex,
    to_markdown,
    with_interval,
)
from evals.model_table import TABLE1_TASKS
from evals.table_rows import PAPER, Table, follows_paper_protocol
from evals.tables import NOT_RESOLVED

TASK_NAMES = {
    "single_object": "Single object",
    "two_object": "Two object",
    "color_attr": "Attribute binding",
    "colors": "Colors",
    "counting": "Counting",
    "position": "Position",
}
_TITLES = {
    1: "Table 1: models under one protocol",
    2: "Table 2: controlled ablation study",
}
_OTHER_WEIGHTS = (
    "OTHER WEIGHTS: rows so marked were drawn with weights that are not the published ones. They "
    "say nothing of the models they name, and no figure of the paper stands beside them."
)
Section = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""(heading, header, rows)"""


def protocol_text(protocol: ProtocolFacts | None, recipe: str = "") -> str:
    """What all figures of a table share, in one sentence."""
    if protocol is None:
        return "Protocol: none yet, nothing was measured."
    images = protocol.num_prompts * protocol.images_per_prompt
    parts = [
        f"suite {protocol.suite}",
        f"split {protocol.split or 'whole suite'}",
        f"detector {protocol.detector}",
        f"colours {protocol.color_classifier}",
        f"prompts {protocol.num_prompts} (sha256 {protocol.prompts_sha256[:12]})",
        f"{protocol.images_per_prompt} images per prompt ({images} in all)",
    ]
    if protocol.signal != 1:
        parts.append(f"latents times {protocol.signal:g}")
    if recipe:
        parts.append(f"recipe {recipe}")
    return "Protocol: " + ", ".join(parts) + "."


def heading(table: Table) -> str:
    """A short name of the table's protocol and recipe."""
    if table.protocol is None:
        return "nothing measured yet"
    split = f", {table.protocol.split}" if table.protocol.split else ""
    recipe = f", recipe {table.recipe}" if table.recipe else ""
    weights = ", other weights" if table.other_weights else ""
    return f"{table.protocol.suite}{split}{recipe}{weights} ({protocol_slug(table.protocol)})"


def _paper_sentence(table: Table) -> str:
    text = f"Columns marked * are figures of the {PAPER}"
    if follows_paper_protocol(table.protocol):
        return text + "; differences to it are given, for the protocols are as near as stated."
    return text + ": another protocol, shown beside and not compared."


# ---------------------------------------------------------------- Table 2


def _method(row: pd.Series) -> str:
    mark = " (under-trained)" if row["under_trained"] else ""
    return f"{row['method']}{mark}"


def _joined(values: pd.Series) -> str:
    """The values of a row's cells, once if they agree."""
    texts = [plain(v) for v in values if not is_missing(v) and plain(v)]
    return " / ".join(texts) if len(set(texts)) > 1 else "".join(texts[:1])


def _steps_of(frame: pd.DataFrame) -> list[int]:
    return sorted({int(n) for n in frame["steps"]})


def _row_name(cells: pd.DataFrame) -> str:
    names = [_method(row) for _, row in cells.iterrows() if row["folder"]]
    return max(names, key=len) if names else str(cells["method"].iloc[0])


def _wide_rows(block: pd.DataFrame, steps: Sequence[int], settings: bool) -> list[list[str]]:
    """A row per method, columns numbers of steps, measured and the paper's.

    Args:
        settings: with iterations, NFE, guidance, eta and sampler of the row, joined over its steps.
    """
    rows = []
    for _, cells in block.groupby("label", sort=False):
        by_steps = {int(row["steps"]): row for _, row in cells.iterrows()}
        measured = cells[cells["folder"] != ""]
        texts = []
        for n in steps:
            row = by_steps.get(n)
            if row is None:
                texts.append("")
            elif not row["folder"]:
                texts.append("not run")
            else:
                text = with_interval(row["overall"], row["ci_low"], row["ci_high"])
                mark = " (partial)" if row["partial"] else ""
                texts.append((text or "no score") + mark)
        papers = [by_steps[n]["paper"] if n in by_steps else None for n in STEPS]
        found = [
            plain(cells["iterations"].iloc[0]),
            *[_joined(measured[name]) for name in ("nfe", "guidance", "eta", "settings")],
        ]
        rows.append(
            [
                _row_name(cells),
                *(found if settings else []),
                *texts,
                *[number(value, 4) for value in papers],
            ]
        )
    return rows


def _wide_header(steps: Sequence[int], settings: bool) -> list[str]:
    names = ["Iterations", "NFE", "Guidance", "eta", "Sampler"] if settings else []
    return ["Method", *names, *[_count(n) for n in steps], *[f"*{_count(n)}" for n in STEPS]]


def _count(steps: int) -> str:
    if steps == 0:
        return "Images made elsewhere"
    return f"{steps} step" + ("" if steps == 1 else "s")


def _block_title(block: pd.DataFrame) -> str:
    iterations = block["iterations"].iloc[0]
    if is_missing(iterations):
        return "iterations not known yet"
    return f"{iterations} iterations"


def _difference_rows(frame: pd.DataFrame, steps: Sequence[int]) -> list[list[str]]:
    rows = []
    for (_, label), cells in frame.groupby(["block", "label"], sort=False):
        if label == "Self-E" or (cells["folder"] == "").all():
            continue
        by_steps = {int(row["steps"]): row for _, row in cells.iterrows()}
        texts = []
        for n in steps:
            row = by_steps.get(n)
            if row is None or not row["folder"]:
                texts.append("")
            elif is_missing(row["delta_selfe"]):
                texts.append(str(row["resolved"]))
            else:
                span = f"[{signed(row['delta_low'])}, {signed(row['delta_high'])}]"
                mark = " not resolved" if row["resolved"] == NOT_RESOLVED else ""
                texts.append(f"{signed(row['delta_selfe'])} {span}{mark}")
        rows.append([_row_name(cells), plain(cells["iterations"].iloc[0]), *texts])
    return rows


def _task(row: pd.Series, task: str) -> str:
    return with_interval(row[task], row[f"{task}_low"], row[f"{task}_high"])


def _detail_rows(frame: pd.DataFrame) -> list[list[str]]:
    rows = []
    for _, row in frame[frame["folder"] != ""].iterrows():
        texts = [_method(row), *[plain(row[name]) for name in ("iterations", "steps", "nfe")]]
        texts += [plain(row["guidance"]), plain(row["eta"]), plain(row["settings"])]
        texts.append(with_interval(row["overall"], row["ci_low"], row["ci_high"]))
        rows.append(texts + [_task(row, task) for task in TABLE1_TASKS])
    return rows


_DETAIL_HEADER = [
    "Method",
    "Iterations",
    "Steps",
    "NFE",
    "Guidance",
    "eta",
    "Sampler",
    "Overall",
    *[TASK_NAMES[task] for task in TABLE1_TASKS],
]


def _missing_commands(frame: pd.DataFrame) -> list[str]:
    lines = []
    for (label, command), cells in frame[frame["folder"] == ""].groupby(
        ["label", "command"], sort=False
    ):
        steps = ", ".join(str(n) for n in sorted(cells["steps"]))
        lines.append(f"{label}, {steps} steps: {not_run(f'`{command}`')}")
    return lines


def table2_markdown(table: Table) -> str:
    frame = table.frame
    steps = _steps_of(frame)
    parts = [f"## {heading(table)}\n", protocol_text(table.protocol, table.recipe) + "\n"]
    if table.partial:
        parts.append("**PARTIAL RESULTS: rows so marked are not comparable.**\n")
    parts.append(
        "Overall score [95% interval, clustered by prompt]; NFE, guidance and sampler of every "
        "figure stand under *By task*.\n"
    )
    for _, block in frame.groupby("block", sort=False):
        parts.append(f"### {_block_title(block)}\n")
        parts.append(to_markdown(_wide_header(steps, False), _wide_rows(block, steps, False)))
    parts.append(_paper_sentence(table) + " Its iterations are 100k (upper block) and 300k.\n")
    if table.statements:
        parts.append("### Ordering\n")
        parts.append("\n".join(f"- {text}" for text in table.statements) + "\n")
        parts.append(
            '"Resolved": the 95% interval of the difference, paired over prompts, leaves out 0.\n'
        )
    differences = _difference_rows(frame, steps)
    if differences:
        parts.append("### Difference to Self-E at the same iterations and steps\n")
        header = ["Method", "Iterations", *[_count(n) for n in steps]]
        parts.append(to_markdown(header, differences))
    details = _detail_rows(frame)
    if details:
        parts.append("### By task\n")
        parts.append(to_markdown(_DETAIL_HEADER, details))
    parts += _closing(table, _missing_commands(frame))
    return "\n".join(parts)


def _closing(table: Table, missing: Sequence[str]) -> list[str]:
    """Commands of the rows that were not run, and notes."""
    parts = []
    if missing:
        parts.append("### Not run\n")
        parts.append("\n".join(f"- {line}" for line in missing) + "\n")
    if table.notes:
        parts.append("### Notes\n")
        parts.append("\n".join(f"- {note}" for note in table.notes) + "\n")
    return parts


def table2_latex(table: Table) -> str:
    frame = table.frame
    steps = _steps_of(frame)
    blocks = [
        (_block_title(block), _wide_rows(block, steps, True))
        for _, block in frame.groupby("block", sort=False)
    ]
    caption = f"Controlled ablation study, {heading(table)}: overall score [95% interval]."
    parts = [to_latex(_wide_header(steps, True), blocks, caption)]
    return "\n".join(parts + _latex_closing(table))


def _latex_closing(table: Table) -> list[str]:
    texts = [protocol_text(table.protocol, table.recipe), _paper_sentence(table)]
    texts += ["PARTIAL RESULTS: rows so marked are not comparable."] if table.partial else []
    texts += [*table.statements, *_missing_commands(table.frame), *table.notes]
    return [latex_paragraph(text.replace("`", "")) for text in texts]


# ---------------------------------------------------------------- Table 1


def _shows_paper(table: Table) -> bool:
    return bool(table.frame["paper_overall"].notna().any())


def _table1_header(table: Table) -> list[str]:
    tasks = [TASK_NAMES[task] for task in TABLE1_TASKS]
    header = ["Steps", "Method", "NFE", "Guidance", "Sampler", "Overall", *tasks]
    if not _shows_paper(table):
        return header
    compares = follows_paper_protocol(table.protocol)
    return [*header, "*Overall", *[f"*{name}" for name in tasks], *(["Difference"] * compares)]


def _table1_rows(
    table: Table, frame: pd.DataFrame, *, task_intervals: bool = False
) -> list[list[str]]:
    """Rows of `frame`, a part of the table's; on paper the tasks' intervals find no room."""
    compares = follows_paper_protocol(table.protocol)
    rows = []
    for _, row in frame.iterrows():
        if row["folder"]:
            overall = with_interval(row["overall"], row["ci_low"], row["ci_high"]) or "no score"
        else:
            overall = "not run"
        # of images made elsewhere nobody knows the number of steps
        steps, nfe = (plain(row[name]) if row["steps"] else "" for name in ("steps", "nfe"))
        texts = [steps, _method(row), nfe, plain(row["guidance"])]
        texts += [plain(row["settings"]), overall]
        texts += [
            _task(row, task) if task_intervals else number(row[task]) for task in TABLE1_TASKS
        ]
        if not _shows_paper(table):
            rows.append(texts)
            continue
        # an erratum begins with the column it is about
        misprint = str(row["paper_errata"]).split(" ")[0]
        for name in ("overall", *TABLE1_TASKS):
            mark = "†" if name == misprint else ""
            texts.append(number(row[f"paper_{name}"], 4) + mark)
        rows.append(texts + ([signed(row["delta_paper"])] if compares else []))
    return rows


def _command_of(row: pd.Series) -> str:
    return str(row["status"]).removeprefix("not run: ")


def table1_markdown(table: Table) -> str:
    parts = [f"## {heading(table)}\n", protocol_text(table.protocol) + "\n"]
    if table.other_weights:
        parts.append(f"**{_OTHER_WEIGHTS}**\n")
    if table.partial:
        parts.append("**PARTIAL RESULTS: rows so marked are not comparable.**\n")
    for steps, block in table.frame.groupby("steps", sort=True):
        parts.append(f"### {_count(int(steps))}\n")
        rows = _table1_rows(table, block, task_intervals=True)
        parts.append(to_markdown(_table1_header(table), rows))
    if _shows_paper(table):
        parts.append(_paper_sentence(table) + " †: printed with a misprint, see the notes.\n")
    return "\n".join(parts + _closing(table, _table1_missing(table.frame)))


def _table1_missing(frame: pd.DataFrame) -> list[str]:
    missing = frame[frame["folder"] == ""].groupby("label", sort=False)
    return [f"{label}: {not_run(f'`{_command_of(cells.iloc[0])}`')}" for label, cells in missing]


def table1_latex(table: Table) -> str:
    blocks = [
        ("", _table1_rows(table, block)) for _, block in table.frame.groupby("steps", sort=True)
    ]
    caption = f"Models under one protocol, {heading(table)}: overall score [95% interval]."
    texts = [protocol_text(table.protocol)]
    if table.other_weights:
        texts.append(_OTHER_WEIGHTS)
    if _shows_paper(table):
        texts.append(_paper_sentence(table))
    if table.partial:
        texts.append("PARTIAL RESULTS: rows so marked are not comparable.")
    texts += [*_table1_missing(table.frame), *table.notes]
    parts = [to_latex(_table1_header(table), blocks, caption)]
    return "\n".join(parts + [latex_paragraph(text.replace("`", "")) for text in texts])


def markdown_page(number_: int, sections: Sequence[str]) -> str:
    return f"# {_TITLES[number_]}\n\n" + "\n".join(sections)


def latex_page(sections: Sequence[str]) -> str:
    return latex_document([section + "\n\\clearpage\n" for section in sections])
