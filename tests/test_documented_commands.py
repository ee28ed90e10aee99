"""Every command that README and the pages print is one that this version takes: its options, its
choices, and the recipes, methods, suites, models, studies, settings and scripts that it names."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from baselines.registry import MODELS
from evals.published import known
from evals.registry import COLOR_CLASSIFIERS, DETECTORS, JUDGES, MEASURES, SUITES
from evals.suites.rules import RuleSettings, judge
from selfe.cli import build_app
from selfe.config.recipes import RECIPES
from selfe.config.resolve import resolve
from selfe.objectives.registry import METHODS
from selfe.studies.catalog import STUDIES

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
)
OWN = {
    "docs/objective.md": {"method": {"endpoint"}},
    "docs/model.md": {"model": {"painter"}},
}
"""Names that a page has its reader define."""


def code_of(page: str) -> list[str]:
    """Indented and fenced lines, continued ones joined, and what stands in backticks."""
    text = (ROOT / page).read_text().replace("\\\n", " ")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    blocks = [line for block in fenced for line in block.splitlines()]
    blocks += [line for line in prose.splitlines() if line.startswith("    ")]
    quoted = re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)
    return [" ".join(each.split()) for each in (*blocks, *quoted)]


def commands_of(page: str) -> Iterator[list[str]]:
    """Words after `selfe-bench`, without shell comments, pipes and "..."."""
    for code in code_of(page):
        if "selfe-bench" not in code or code.startswith(("import ", "from ", "raise ")):
            continue
        for part in re.split(r"\s(?:&&|\||;|>\S*)\s", code):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:  # an apostrophe: a sentence, not a command
                continue
            if "selfe-bench" in words:
                yield words[words.index("selfe-bench") + 1 :]


CASES = [(page, words) for page in PAGES for words in commands_of(page)]


def find_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, and the words that are left."""
    command: click.Command = typer.main.get_command(build_app(words))
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def is_placeholder(word: str) -> bool:
    """RUN, FOLDER, RESULT_A, ORGANISATION/NAME: what the reader replaces."""
    return bool(re.fullmatch(r"[A-Z][A-Z_]*(?:[@/.].*)?", word))


@pytest.mark.parametrize(("page", "words"), CASES, ids=[f"{p}: {' '.join(w)}" for p, w in CASES])
def test_every_documented_command_is_taken(page, words):
    words = [word for word in words if word not in ("...", "…")]
    if words[:1] == ["COMMAND"]:
        words = ["train", *words[1:]]
    command, rest = find_command(words)
    if not rest or "--help" in rest or any(each.startswith("--install") for each in rest):
        return
    parser = command.make_parser(click.Context(command, info_name=command.name))
    values, _, _ = parser.parse_args(list(rest))
    own = OWN.get(page, {})
    for name, table in (
        ("method", METHODS),
        ("methods", METHODS),
        ("recipe", RECIPES),
        ("suite", SUITES),
        ("detector", DETECTORS),
        ("color_classifier", COLOR_CLASSIFIERS),
        ("with_", MEASURES),
        ("judge", JUDGES),
    ):
        given = values.get(name) or []
        for text in given if isinstance(given, list) else str(given).split(","):
            name_alone = text.partition(":")[0]
            assert is_placeholder(text) or name_alone in (*table, *own.get(name, ())), text
    for parameter in command.params:  # types, ranges and choices
        given = values.get(parameter.name)
        if given is not None and not isinstance(parameter.type, click.types.Path):
            texts = given if isinstance(given, list) else [given]
            for text in texts:
                if isinstance(text, str) and not is_placeholder(text):
                    parameter.type.convert(text, parameter, click.Context(command))
    assignments = values.get("settings") or []
    if assignments and command.name in ("train", "plan", "study", "sweep"):
        method = (values.get("methods") or values.get("method") or "selfe").split(",")[0]
        resolve(values.get("recipe") or "shapes-quick", method, assignments=assignments)


@pytest.mark.parametrize(("command", "table"), [("fetch", known()), ("study", STUDIES)])
def test_what_an_argument_names_is_there(command, table):
    named = [words[1] for _, words in CASES if words[:1] == [command] and len(words) > 1]
    named = [word for word in named if not word.startswith("-") and not is_placeholder(word)]
    assert named and set(named) <= set(table)


def test_models_are_runs_of_the_page_or_known():
    for page, words in CASES:
        for place, word in enumerate(words[:-1]):
            if word == "--model":
                name = words[place + 1]
                own = OWN.get(page, {}).get("model", set())
                trained = [
                    w for p, w in CASES if w[:1] == ["train"] and (p == page or p == PAGES[0])
                ]
                made = {w[w.index("--name") + 1] for w in trained if "--name" in w} | own
                is_run = name in made or re.fullmatch(r"(0\.5b|shapes-quick)-\w+", name)
                assert (
                    is_run
                    or is_placeholder(name)
                    or name.startswith("diffusers:")
                    or (name in MODELS)
                ), (page, name)


def test_scripts_that_pages_name_are_there():
    found = 0
    for page in PAGES:
        for code in code_of(page):
            for module in re.findall(r"python -m (scripts(?:\.\w+)+)", code):
                path = ROOT / f"{module.replace('.', '/')}.py"
                assert path.is_file(), (page, module)
                assert ast.get_docstring(ast.parse(path.read_text()))
                found += 1
            for script in re.findall(r"(?:^|\s)(scripts/[\w/]+\.(?:py|sh))", code):
                assert (ROOT / script).is_file(), (page, script)
                found += 1
    assert found > 10


def test_pages_print_commands():
    assert len(CASES) > 40
    assert {words[0] for _, words in CASES if words} >= {"train", "geneval", "report", "compare"}


def test_examples_that_pages_include_are_there():
    """mkdocs shows a line that is not exactly so as it stands."""
    files = []
    for page in PAGES:
        for line in (ROOT / page).read_text().splitlines():
            if re.search(r"--\s*8\s*<", line):
                found = re.fullmatch(r'--8<-- "(.+)"', line)
                assert found, (page, line)
                files.append(ROOT / found[1])
    assert len(files) >= 5 and all(path.is_file() for path in files)


def test_the_reason_on_the_page_is_one_that_the_rules_give() -> None:
    include = [{"class": "bench", "count": 1}]
    verdict = judge({"tag": "single_object", "include": include}, [], RuleSettings())
    assert f'verdicts[0].reason  # "{verdict.reason}"' in (ROOT / "docs/geneval.md").read_text()
