"""Text of other people's results forges no row, leaves no folder and ends in no error."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.report.render import render
from selfe.foreign_text import (
    csv_cell,
    file_name,
    from_outside,
    latex,
    markdown_page,
    on_terminal,
    one_line,
)
from tests.helpers.synthetic_results import write_result

HOSTILE = (
    "x | y\n| forged | row |",
    "a\u2028b\u0085c\x00\x1b[31m\u202ed",
    "<script>alert(1)</script><img src=x onerror=y>",
    "[click](http://x.example) ![](http://x.example/p.png)",
    "$\\frac{$",
    "=HYPERLINK(1)",
    "`rm -rf`",
    "../../../outside",
    "\\input{/etc/passwd} % & # _ ^ ~",
    "\U0001f600 \u4f60\u597d",
    "n" * 5000,
)


def edit(folder: Path, change: dict[str, object]) -> None:
    """As somebody else's result: not sealed, with other texts in it."""
    path = folder / "result.json"
    result = json.loads(path.read_text())
    for place, value in change.items():
        *above, last = place.split(".")
        inner = result
        for key in above:
            inner = inner[key]
        inner[last] = value
    for key in ("what", "checksum"):
        result.pop(key, None)
    path.write_text(json.dumps(result))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of results all of whose texts are hostile."""
    root = tmp_path_factory.mktemp("hostile")
    for number, text in enumerate(HOSTILE):
        folder = write_result(root / "runs" / f"r{number}", "selfe", steps=2 + number)
        texts = ("suite", "split", "detector", "color_classifier")
        change: dict[str, object] = {f"protocol.{key}": text for key in texts}
        change |= {f"model.{key}": text for key in ("name", "label", "variant", "other_weights")}
        change |= {"command": text, "environment": {"commit": text}}
        change["model.training"] = {"recipe": text, "seed": 1, "changed": [f"a={text}"]}
        change["sampling.settings"] = {"guidance": text, "sampler": text}
        edit(folder, change)
    named = write_result(root / "runs" / "a\n| b |", "fm")
    assert named.is_dir()
    render([root / "runs"], root / "out")
    return root


def test_nothing_is_written_outside_the_reports_folder(report):
    assert sorted(p.name for p in report.iterdir()) == ["out", "runs"]
    names = [p.name for p in (report / "out").rglob("*") if p.is_file()]
    assert len(names) > 10
    assert all(re.fullmatch(r"[\w.@+-]{1,200}", name) for name in names)


def test_no_row_is_forged_in_markdown(report):
    for path in (report / "out").glob("*.md"):
        text = path.read_text()
        assert not re.search(r"^\| *(forged|b) *\|", text, re.MULTILINE), path
        prose = re.sub(r"`[^`\n]*`", "", text)  # code is shown as it is
        assert "<script" not in prose and "<img" not in prose
        assert not re.search(r"(?<!\\)\]\(http", prose)
        assert not re.search("[\x00-\x08\x1b\u2028\u202e]", text)
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            rows = [len(re.findall(r"(?<!\\)\|", row)) for row in block.splitlines()]
            assert len(set(rows)) == 1, (path, block[:300])


def test_no_cell_is_a_formula_in_csv(report):
    for path in (report / "out").glob("*.csv"):
        with path.open() as stream:
            for row in csv.DictReader(stream):
                for value in row.values():
                    assert not re.match(r"[=@]|[+-](?![\d.])", value or ""), (path, value)


def test_latex_is_ascii_and_holds_no_command_of_others(report):
    for path in (report / "out").glob("*.tex"):
        text = path.read_text()
        assert text.isascii() and "\\input{" not in text


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_every_text_becomes_harmless(text):
    line = one_line(text)
    assert line.isprintable() and "`" not in line and one_line(line) == line
    name = file_name(text)
    assert re.fullmatch(r"[A-Za-z0-9_@+][A-Za-z0-9._@+-]*", name) and ".." not in name
    assert Path(name).name == name and file_name(name) == name
    assert latex(line).isascii()
    assert not re.search(r"<[A-Za-z/!?]", markdown_page(line))
    assert str(csv_cell(text))[:1] not in ("=", "@", "+", "-", "\t", "\r")
    assert "\x1b" not in on_terminal(text)
    json.dumps(from_outside({text: [text, 1, None, {"a": text}]}))


def test_usual_text_stays_as_it_is():
    for text in (
        "Self-E w/o target norm.",
        "optim.lr=0.008, b_2 [0.1, 0.2]",
        "shapes@1",
        "≥ 2 × 4",
    ):
        assert one_line(text) == text and markdown_page(text) == text and csv_cell(text) == text
    for text in ("shapes-1", "heldout", "a_b@2+c"):
        assert file_name(text) == text
    page = "see [all](trainings.md), `a <b> [c](http://d)`, ![x](figures/curves.png)"
    assert markdown_page(page) == page
