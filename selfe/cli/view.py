"""`selfe-bench view`: results and runs in the browser, live, or as a folder."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfe.cli import options
from selfe.cli.common import RUNS, tell

if TYPE_CHECKING:
    from evals.site.serve import LiveSite


def view(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN|RESULT|REPORT]...",
            help="Runs by name, folders of runs or results, or one report; the runs folder "
            "if none is given.",
            show_default=False,
        ),
    ] = None,
    runs_dir: options.RunsDir = RUNS,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free.")] = 0,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the page as a folder that works by itself.", file_okay=False
        ),
    ] = None,
    open_browser: Annotated[
        bool, typer.Option("--open/--no-open", help="Open it in the browser.")
    ] = False,
) -> None:
    """Look at results: every image with its verdict and reason, scores, and training as it runs.

    Serves this machine only (127.0.0.1), and stops with Ctrl-C.
    """
    roots = [_folder_of(text, runs_dir) for text in what or [str(runs_dir)]]
    reports = [root for root in roots if (root / "page" / "data.js").is_file()]
    if reports and (len(roots) > 1 or export is not None):
        raise ValueError(f"{reports[0]} is a report, which is a page already: view it alone")
    if not reports:
        tell(f"reading results below {', '.join(map(str, roots))}")
    from evals.site.serve import LiveSite, PageServer

    title = roots[0].name if len(roots) == 1 else f"{len(roots)} folders"
    if export is not None:
        site = LiveSite(roots, export, title)
        _export(site)
        return
    with tempfile.TemporaryDirectory(prefix="selfe-bench-view-") as scratch:
        live = None
        if not reports:
            live = LiveSite(roots, Path(scratch), title)
            live.refresh()
        server = PageServer(reports[0] if reports else Path(scratch), port, live)
        stop = threading.Event()
        if live is not None:
            threading.Thread(target=live.watch, args=(stop,), daemon=True).start()
        typer.echo(f"{server.url} (Ctrl-C stops)")
        if open_browser:
            import webbrowser

            webbrowser.open(server.url)
        try:
            server.serve_forever()
        finally:
            stop.set()
            server.server_close()


def _folder_of(text: str, runs_dir: Path) -> Path:
    from selfe.run_folder.records import parse_run, unknown_run

    run = parse_run(text, runs_dir)
    for folder in (run[0] if run else None, Path(text), runs_dir / text):
        if folder is not None and folder.is_dir():
            return folder
    raise ValueError(
        f"{unknown_run(text, runs_dir)}, and no folder of results or of a report to view"
    )


def _export(site: LiveSite) -> None:
    files = site.export()
    size = sum(path.stat().st_size for path in files) / 2**20
    typer.echo(f"{len(files)} files, {size:.1f} MB; open {site.folder / 'index.html'}")
    typer.echo(f"from {site.state}")
