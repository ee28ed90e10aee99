"""Tables 1 and 2 as Markdown and LaTeX: what both pages share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from evals.base import ProtocolFacts
from evals.report.markup import (
    latex_document,
    with_interval,
)
from evals.report.rows import PAPER, Table, follows_paper_protocol
from evals.results import protocol_key, protocol_slug

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
    if protocol.inference:
        parts.append(f"inference {protocol.inference}")
    if protocol.signal != 1:
        parts.append(f"latents times {protocol.signal:g}")
    if protocol.crop_black_borders:
        parts.append("black borders cropped")
    if recipe:
        parts.append(f"recipe {recipe}")
    return "Protocol: " + ", ".join(parts) + "."


def telling_apart(protocols: Iterable[ProtocolFacts]) -> dict[str, str]:
    """`protocol_key` -> what tells a protocol from others of its suite, split and size, to stand
    behind these in a title; "" where there is no other."""
    found = {protocol_key(protocol): protocol for protocol in protocols}
    facts = {key: _flat(protocol) for key, protocol in found.items()}
    words = {}
    for key, own in facts.items():
        alike = [other for other in facts.values() if _size(other) == _size(own)]
        differing = [name for name in own if any(other.get(name) != own[name] for other in alike)]
        words[key] = ", ".join(_fact(name, own[name]) for name in differing)
    return words


def _flat(protocol: ProtocolFacts) -> dict[str, Any]:
    values = protocol.model_dump()
    return values | values.pop("rules")


def _size(facts: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(facts[n] for n in ("suite", "split", "num_prompts", "images_per_prompt"))


def _fact(name: str, value: Any) -> str:
    if name == "inference" and not value:
        return "drawn as each run says"
    if name == "signal":
        return f"latents times {value:g}"
    if name == "prompts_sha256":
        return f"prompts {value[:6]}"
    return f"{name.replace('_', ' ')} {value}"


def heading(table: Table) -> str:
    """A short name of the table's protocol and recipe."""
    if table.protocol is None:
        return "nothing measured yet"
    split = f", {table.protocol.split}" if table.protocol.split else ""
    recipe = f", recipe {table.recipe}" if table.recipe else ""
    weights = ", other weights" if table.other_weights else ""
    return f"{table.protocol.suite}{split}{recipe}{weights} ({protocol_slug(table.protocol)})"


LONG_PROMPTS_EVIDENCE = (
    "The paper says that it follows BAGEL's evaluation, which runs GenEval's prompts rewritten at "
    "length (geneval-long@1), and its own rows fit those and not the short ones: FLUX.1-Dev at "
    "50 steps has position 0.65 and overall 0.80 there, where 0.22 and 0.66 are widely reported on "
    "short prompts, and SDXL, whose encoders read 77 tokens, has overall 0.46 against 0.55."
)


def _paper_sentence(table: Table) -> str:
    text = f"Columns marked * are figures of the {PAPER}"
    if table.protocol is not None and table.protocol.suite.startswith("geneval"):
        text = f"{LONG_PROMPTS_EVIDENCE} {text}"
    if follows_paper_protocol(table.protocol):
        return text + "; differences to it are given, for the protocols are as near as stated."
    return text + ": another protocol, shown beside and not compared."


# ---------------------------------------------------------------- Table 2


def _method(row: pd.Series) -> str:
    mark = " (under-trained)" if row["under_trained"] else ""
    return f"{row['method']}{mark}"


def steps_label(steps: int) -> str:
    if steps == 0:
        return "Images made elsewhere"
    return f"{steps} step" + ("" if steps == 1 else "s")


def _task(row: pd.Series, task: str) -> str:
    return with_interval(row[task], row[f"{task}_low"], row[f"{task}_high"])


def _closing(table: Table, missing: Sequence[str]) -> list[str]:
    """Commands of the rows that were not run, and notes."""
    parts = []
    if missing and table.lists_not_run:
        parts.append("### Not run\n")
        parts.append("\n".join(f"- {line}" for line in missing) + "\n")
    if table.notes:
        parts.append("### Notes\n")
        parts.append("\n".join(f"- {note}" for note in table.notes) + "\n")
    return parts


# ---------------------------------------------------------------- Table 1


def markdown_page(number_: int, sections: Sequence[str]) -> str:
    return f"# {_TITLES[number_]}\n\n" + "\n".join(sections)


def latex_page(sections: Sequence[str]) -> str:
    return latex_document([section + "\n\\clearpage\n" for section in sections])
