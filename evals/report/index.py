"""README.md of a report: what was found, links to everything, and where every figure comes from."""

from __future__ import annotations

from collections.abc import Sequence

from evals.report import page
from evals.report.compact import CompactTable, compact_markdown
from evals.report.groups import by_protocol
from evals.report.headline import headline
from evals.report.markup import is_missing, plain, to_markdown, with_interval
from evals.report.model_columns import eta_of, guidance_text, setting_text
from evals.report.result_folders import ResultFolder
from evals.report.rows import Table

TITLE = "# Report"

_FIGURE_WORDS = {
    "fig5": "Overall score against training iterations (Fig. 5)",
    "scores_by_steps": "Overall score against sampling steps",
    "across_by_steps": "Every measure against sampling steps, and where measures disagree",
    "across_by_nfe": "Every measure against evaluations of the network",
    "trainings_by_steps": "Overall score against sampling steps, mean over training seeds",
    "trainings_by_task": "Score of every task against sampling steps, mean over training seeds",
    "trainings_progress": "Overall score against training iterations, mean over training seeds",
    "fig4": "Same prompts and seeds: rows methods, columns steps (Fig. 4)",
    "figS3": "Policies of the secondary time s: scores (Fig. S.3)",
    "figS3_images": "Policies of the secondary time s: images (Fig. S.3)",
    "figS4": "One step without guidance over f: scores (Fig. S.4)",
    "figS4_images": "One step without guidance over f: images (Fig. S.4)",
}

_CUT_WORDS = {
    "seen_unseen.md": "Combinations seen in training and held out, apart",
    "diversity.md": "Diversity beside accuracy",
    "across_suites.md": "All suites and measures side by side, and where they disagree",
    "trainings.md": "Means over training seeds, and differences that hold for another seed",
    "all_steps.md": "Means over numbers of steps and training seeds: one question a configuration",
}


def index_page(
    folders: Sequence[ResultFolder],
    table2: Sequence[Table],
    compact: Sequence[CompactTable],
    cuts: Sequence[str],
    drawn: Sequence[str],
    has_page: bool = True,
) -> str:
    parts = [f"{TITLE}\n", f"Rendered from {len(folders)} results; every figure below is theirs.\n"]
    if has_page:
        parts.append(
            "The same as a page, with every verdict, its reason, and the images where they are "
            "kept: index.html.\n"
        )
    for table in compact[:1]:
        parts.append(f"## What was found: {table.title}\n")
        parts.append("\n".join(f"- {text}" for text in headline(table)) + "\n")
        parts.append(compact_markdown(table))
        parts.append(table.words.replace("Below a score: its", "Below:") + "\n")
        if table.over_seeds:
            parts.append("[All configurations and tasks over training seeds](trainings.md).\n")
    if table2[0].statements:
        parts.append(f"One training each, {page.heading(table2[0])}:\n")
        parts.append("\n".join(f"- {text}" for text in table2[0].statements) + "\n")
        parts.append(
            '"Resolved": the 95% interval of the difference to the one named before it, paired '
            "over prompts, leaves out 0.\n"
        )
    warnings = [n for t in table2 for n in t.notes if n.startswith(("PARTIAL", "UNDER-TRAINED"))]
    if warnings:
        parts.append("\n".join(f"- {note}" for note in dict.fromkeys(warnings)) + "\n")
    parts.append("## Tables\n")
    for number, words in ((1, "every model, one protocol a table"), (2, "the ablation study")):
        links = ", ".join(f"[{s}](table{number}.{s})" for s in ("md", "csv"))
        parts.append(f"- Table {number}, {words}: {links}")
    parts += [f"- {_CUT_WORDS[name]}: [md]({name})" for name in cuts]
    if drawn:
        parts.append("\n## Figures\n")
    for name in drawn:
        kind, _, where = name.rpartition(".")[0].partition(".")
        words = _FIGURE_WORDS[kind]
        parts.append(f"{words}{f' ({where})' if where else ''}\n")
        parts.append(f"![{words}](figures/{name})\n")
    parts.append("\n## Results\n")
    if not folders:
        parts.append(
            "None yet. `selfe-bench geneval --steps 2,4,8,50` scores every finished run.\n"
        )
    for members in by_protocol(folders).values():
        protocol = members[0].result.protocol
        parts.append(f"### {protocol.suite}, {protocol.split or 'whole suite'}\n")
        parts.append(page.protocol_text(protocol) + "\n")
        rows = [_result_row(number, f) for number, f in enumerate(members, start=1)]
        header = list(_RESULT_HEADER)
        if any(folder.changed for folder in members):
            header.append("Changed settings")
            for row, folder in zip(rows, members, strict=True):
                row.append(", ".join(folder.changed or ()))
        parts.append(to_markdown(header, rows))
        parts.append("Commands of these results, and where they lie:\n")
        parts.append("\n".join(_command_lines(members)) + "\n")
    return "\n".join(parts)


_RESULT_HEADER = [
    "No.",
    "Model",
    "Iterations",
    "Steps",
    "NFE",
    "Guidance",
    "eta",
    "Sampler",
    "Overall",
    "Seed",
    "Training seed",
    "Trained in",
    "Commit",
]


def _result_row(number: int, folder: ResultFolder) -> list[str]:
    result = folder.result
    scores = result.scores
    overall = scores.overall
    score = with_interval(overall.mean, overall.low, overall.high) if overall else "no score"
    iterations = result.model.iterations
    return [
        str(number),
        f"{result.model.label} {result.model.variant}".strip(),
        "" if is_missing(iterations) else str(iterations),
        str(result.sampling.steps),
        str(result.sampling.nfe),
        guidance_text(result),
        plain(eta_of(result)),
        setting_text(result),
        score + (f" (partial: {scores.num_images} images)" if scores.partial else ""),
        str(result.sampling.seed),
        plain(result.model.training.get("seed", "")),
        plain(result.model.training.get("precision", "")),
        str(result.environment.get("commit", "")),
    ]


def _command_lines(folders: Sequence[ResultFolder]) -> list[str]:
    """A list item per command: the results it made, by their number in the table."""
    made: dict[str, list[str]] = {}
    for number, folder in enumerate(folders, start=1):
        made.setdefault(folder.result.command, []).append(f"{number}: `{folder.name}`")
    lines = []
    for command, results in made.items():
        lines.append(f"- `{command}`" if command else "- made by no recorded command")
        lines += [f"  - {result}" for result in results]
    return lines
