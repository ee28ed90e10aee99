"""selfe-bench: the composition root. Commands are thin; every decision lies below.

With `selfe.api` the only place that sees selfe, baselines and evals at once, and the only user of
typer and rich. Errors that a user can correct are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import difflib
import os
import re
import signal
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Annotated

import typer

from selfe.cli.common import console, tell_error
from selfe.cli.compare import compare
from selfe.cli.demo import demo
from selfe.cli.doctor import doctor
from selfe.cli.export import export
from selfe.cli.fetch import fetch
from selfe.cli.geneval import geneval
from selfe.cli.headroom import headroom
from selfe.cli.ls import ls
from selfe.cli.measure import measure
from selfe.cli.pack import pack
from selfe.cli.plan import plan
from selfe.cli.prepare import prepare
from selfe.cli.prompts import prompts
from selfe.cli.report import report
from selfe.cli.rescore import rescore
from selfe.cli.sample import sample
from selfe.cli.search import search
from selfe.cli.study import study
from selfe.cli.sweep import sweep
from selfe.cli.train import train
from selfe.cli.verify import verify
from selfe.cli.view import view
from selfe.errors import PeerError, Stopped, WorkerDied
from selfe.foreign_text import on_terminal

USER_ERROR = 2

COMMANDS: tuple[Callable[..., None], ...] = (
    demo,
    *(prepare, train, geneval, measure, report, view, study, sweep, sample, export),
    *(compare, rescore, headroom, pack, prompts, ls, plan, doctor, verify, fetch),
)
GLOBAL_FLAGS = ("-q", "--quiet", "-v", "--verbose")
"""Understood before and after the command's name."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"selfe-bench {version('selfe-bench')}")
        raise typer.Exit()


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress, no notes: results and errors only.")
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show warnings of libraries, and the traceback of an error."
        ),
    ] = False,
) -> None:
    """Options of every command."""
    console.quiet = quiet
    if not verbose:
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)


def build_app(words: Collection[str] | None = None) -> typer.Typer:
    """The command line.

    Args:
        words: as typed. Commands that are not among them get their line in --help and nothing else:
            reading the options of all takes longer than most lists do. None for all of them.
    """
    app = typer.Typer(
        name="selfe-bench",
        help="Any-step text-to-image training, compared fairly: Self-E, Flow Matching and IMM, "
        "scored by GenEval with error bars.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    for command in COMMANDS:
        wanted = words is None or command.__name__ in words
        app.command()(command if wanted else _without_options(command))
    if words is None or "search" in words:
        app.add_typer(search, name="search")
    else:
        app.command("search", help=search.info.help)(_without_options(search))
    return app


def _without_options(command: Callable[..., None]) -> Callable[[], None]:
    def listed() -> None:
        raise AssertionError("a command that was not typed is not called")

    listed.__name__ = getattr(command, "__name__", "")
    listed.__doc__ = command.__doc__
    return listed


app = build_app()


def _arguments(words: list[str]) -> list[str]:
    """Move flags of every command before the command's name; without any word, ask for the help."""
    if not words:
        return ["--help"]
    end = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word in GLOBAL_FLAGS]
    return flags + [word for word in words[:end] if word not in GLOBAL_FLAGS] + words[end:]


def main() -> None:
    """Entry point: one clear sentence instead of a traceback where a user can correct it."""
    words = _arguments(sys.argv[1:])
    verbose = "-v" in words or "--verbose" in words
    try:
        code = _app_for(words)(words, prog_name="selfe-bench", standalone_mode=False)
        if isinstance(code, int) and code:
            sys.exit(code)
    except ValueError as error:
        if verbose:
            raise
        tell_error(on_terminal(str(error)))
        sys.exit(USER_ERROR)
    except Stopped as stopped:
        tell_error(f"{stopped}; continue with --resume", "stopped by")
        sys.exit(128 + stopped.signal_number)
    except WorkerDied as error:
        tell_error(f"{error}; continue with --resume")
        sys.exit(1)
    except PeerError:
        sys.exit(1)
    except OSError as error:
        place = error.filename2 or error.filename
        tell_error(on_terminal(f"{place}: {error.strerror}" if place else str(error)))
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        # of the parser: an unknown option, a missing one, a value of another kind
        sentence = _with_nearest(" ".join(error.format_message().split()).removesuffix("."))
        tell_error(
            f"{sentence[0].lower()}{sentence[1:]} (selfe-bench {_asked(words, error)}--help)"
        )
        sys.exit(USER_ERROR)


def _with_nearest(sentence: str) -> str:
    """The parser's sentence; where it lists what a value may be, with the nearest of these."""
    sentence = sentence.replace("Value error, ", "")
    given, found, others = sentence.partition(" is not one of ")
    if not found:
        return sentence
    quoted = re.compile(r"'([^']*)'")
    words, choices = quoted.findall(given), quoted.findall(others)
    near = difflib.get_close_matches(words[-1], choices, n=1, cutoff=0.5) if words else []
    return f"{sentence}; did you mean {near[0]!r}?" if near else sentence


def _app_for(words: list[str]) -> typer.Typer:
    completing = "_SELFE_BENCH_COMPLETE" in os.environ  # the words then lie in the environment
    return app if completing else build_app(words)


def _asked(words: list[str], error: Exception) -> str:
    """The command that was typed, for a hint: "search sampling "."""
    context = getattr(error, "ctx", None)
    path: list[str] = []
    while context is not None and context.parent is not None:
        path.insert(0, f"{context.info_name} ")
        context = context.parent
    if path:
        return "".join(path)
    names = {name.__name__ for name in COMMANDS}
    return next((f"{word} " for word in words if word in names), "")
