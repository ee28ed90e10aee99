"""selfe-bench: the composition root. Commands are thin; every decision lives below.

The only place that sees selfe, baselines and evals at once, and the only user of typer and rich.
Errors that a user can correct are one sentence on stderr and exit code 2.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

import typer

from selfe.cli.common import console
from selfe.cli.compare import compare
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
from selfe.cli.view import view
from selfe.errors import PeerError, Stopped, WorkerDied

USER_ERROR = 2

app = typer.Typer(
    name="selfe-bench",
    help="Any-step text-to-image training, compared fairly: Self-E, Flow Matching and IMM, scored "
    "by GenEval with error bars.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: tuple[Callable[..., None], ...] = (
    *(prepare, train, geneval, measure, report, view, study, sweep, sample, export),
    *(compare, rescore, headroom, pack, prompts, ls, plan, doctor, fetch),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(search, name="search")


@app.callback()
def root() -> None:
    """Keeps `selfe-bench COMMAND` the form however many commands there are."""


def main() -> None:
    """Entry point: one clear sentence instead of a traceback where a user can correct it."""
    try:
        app(prog_name="selfe-bench")  # however it was started
    except ValueError as error:
        console.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(USER_ERROR)
    except Stopped as stopped:
        console.print(f"stopped by {stopped}; continue with --resume")
        sys.exit(128 + stopped.signal_number)
    except WorkerDied as error:
        console.print(f"error: {error}; continue with --resume", markup=False, soft_wrap=True)
        sys.exit(1)
    except PeerError:
        sys.exit(1)
    except OSError as error:
        place = error.filename2 or error.filename
        words = f"{place}: {error.strerror}" if place else str(error)
        console.print(f"error: {words}", markup=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
