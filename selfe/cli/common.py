"""What the commands share: console, progress, parsing. Their options stand in `options.py`."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from selfe.text import printable, without_secrets

console = Console(stderr=True, highlight=False)
"""Progress and notes; silent under --quiet."""

WIDE = 90
"""Columns from which a progress bar shows everything."""
RUNS = Path("runs")
REPORTS = Path("reports/local")
"""Not under version control; what is committed stands in reports/studies."""


def tell_error(sentence: str, kind: str = "error:") -> None:
    """A sentence on stderr, also under --quiet."""
    Console(stderr=True, highlight=False).print(f"{kind} {sentence}", markup=False, soft_wrap=True)


def tell(line: str) -> None:
    """A note on stderr, which --quiet leaves out."""
    console.print(line, markup=False, soft_wrap=True)


def warn(sentences: Iterable[str]) -> None:
    """Warnings about choices that are allowed and probably unintended."""
    for sentence in sentences:
        tell(f"warning: {sentence}")


def asked_for(context: typer.Context, *names: str) -> list[str]:
    """Those of the options that were typed, as "--name"."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return [
        f"--{name.replace('_', '-')}"
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    ]


def command_line() -> str:
    """The command as typed, to stand beside its figures; without the secrets of signed URLs."""
    words = [printable(without_secrets(word)) for word in sys.argv[1:]]
    return shlex.join(["selfe-bench", *words])


def pick_device(name: str) -> str:
    """ "auto" -> the best device there is; anything else is checked.

    Under torchrun "auto" and "cuda" are the GPU of this process's place on its machine.

    Raises:
        ValueError: if torch does not know or does not have the device.
    """
    from selfe.distributed.environment import best_device

    return best_device(name)


def fitted(text: str) -> str:
    """Text for stdout: lines too long for the terminal continue below where their words begin.

    Without a terminal every line stays whole, unless COLUMNS says how wide it may be.
    """
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return text
    width = shutil.get_terminal_size((100, 24)).columns
    return "\n".join(
        line
        if len(line) <= width
        else fill(
            line,
            width,
            subsequent_indent=" " * min(_words_begin(line), width // 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in text.splitlines()
    )


def _words_begin(line: str) -> int:
    """Where the last column of a line begins: after a bullet, or after two spaces."""
    found = re.match(r"\s*- |(?:.*\S)? {2,}(?=\S)", line)
    return found.end() if found else 0


def tell_clip_limit(records: Sequence[Mapping[str, Any]]) -> None:
    """A line on stderr: how many of the user's own prompts are too long for CLIP."""
    from evals.suites.geneval import CLIP_TOKENS, count_beyond_clip

    console.print(
        f"{count_beyond_clip(records)} of {len(records)} prompts have more than {CLIP_TOKENS} "
        "CLIP tokens: a text encoder of that kind cuts them off",
        markup=False,
        soft_wrap=True,
    )


def parse_steps(text: str) -> list[int]:
    """ "2,4,8,50" -> [2, 4, 8, 50].

    Raises:
        ValueError: unless every part is a positive integer.
    """
    steps = []
    for part in text.split(","):
        if not part.strip().isdecimal() or int(part) < 1:
            raise ValueError(
                f"--steps takes positive integers separated by commas (2,4,8,50), got {text!r}"
            )
        steps.append(int(part))
    return sorted(set(steps))


def parse_pairs(
    texts: Sequence[str], option: str, form: str, *, allow_empty: bool = False
) -> dict[str, str]:
    """["guidance_scale=4.5", ...] -> text by key.

    Args:
        option, form: for messages: "--model-arg", "KEY=VALUE".
        allow_empty: whether the text after "=" may be empty.

    Raises:
        ValueError: for text without "=", or a key that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key or not (value or allow_empty):
            raise ValueError(f"{option} takes {form}, got {text!r}")
        if key in found:
            raise ValueError(f"{option} {key} is given twice")
        found[key] = value
    return found


@contextmanager
def progress_bar(*columns: str, disable: bool = False) -> Iterator[Progress]:
    """A bar on stderr; where that is no terminal, callers print lines instead (`Ticker`).

    A narrow terminal shows name, counter and remaining time; it leaves out the bar, the elapsed
    time and the end of the note (FLOP/s).
    """
    wide = console.width >= WIDE
    counter = MofNCompleteColumn(table_column=Column(no_wrap=True))
    note = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    with Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        *([BarColumn(bar_width=20)] if wide else []),
        counter,
        *[TextColumn(column, table_column=note) for column in columns],
        *([TimeElapsedColumn(table_column=Column(no_wrap=True))] if wide else []),
        TimeRemainingColumn(compact=not wide, table_column=Column(no_wrap=True)),
        console=console,
        expand=bool(columns),
        disable=disable or console.quiet or not console.is_terminal,
    ) as bar:
        yield bar


SECONDS_OF_SILENCE = 10.0
"""After these a log has another line, if there was progress."""


class Ticker:
    """Progress of several named jobs: bars on a terminal; in a log a line at every twentieth part,
    and every ten seconds."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar
        self._tasks: dict[str, Any] = {}
        self._printed: dict[str, tuple[int, float]] = {}

    def __call__(self, name: str, done: int, total: int, note: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self.bar.add_task(name, total=total, note="")
        self.bar.update(self._tasks[name], completed=done, total=total, note=note)
        if console.is_terminal:
            return
        part, now = 20 * done // max(total, 1), time.monotonic()
        printed, since = self._printed.get(name, (-1, now))
        if part != printed or now - since >= SECONDS_OF_SILENCE:
            self._printed[name] = (part, now)
            console.print(f"{name}: {done}/{total} {note}".rstrip(), markup=False, soft_wrap=True)

    def job(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self(name, done, total)
