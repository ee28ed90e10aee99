"""The page, served on the loopback address while runs go on.

The server answers GET and HEAD for files of the page's own folder. A request that names another
host, or that comes from another site's page, is refused: a site that resolves its name to the
loopback address (DNS rebinding) can read nothing.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from evals.report.groups import tell_apart
from evals.report.result_folders import collect
from evals.results import RESULT, walk_results
from evals.site.render import render_page, write_sheets
from evals.site.runs import METRICS, RunRecord, read_run
from evals.site.summary import run_facts

HOST = "127.0.0.1"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".md": "text/plain; charset=utf-8",
    ".csv": "text/plain; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
    ".webp": "image/webp",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
"""What is served; files of other kinds are not."""
_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
}


def find_below(root: Path) -> tuple[list[Path], list[Path]]:
    """Folders of results and of runs at and below `root`."""
    results, runs = [], []
    for place, files in walk_results(root):
        results += [place] if RESULT in files else []
        runs += [place] if METRICS in files else []
    return results, runs


class LiveSite:
    """The page of some folders, kept up to date in a folder of its own.

    Attributes:
        folder: what is served.
        version: changes whenever the results do.
        state: one line for readers: what was found, or why the page is an older one.
    """

    def __init__(self, roots: Sequence[Path], folder: Path, title: str) -> None:
        self.roots, self.folder, self.title = list(roots), folder, title
        self.version = ""
        self.runs_version = ""
        self.runs: list[dict[str, Any]] = []
        self.state = "reading results"
        self._lock = threading.Lock()

    def refresh(self) -> bool:
        """Look at the folders and render again what changed; whether anything did."""
        with self._lock:
            results, runs = [], []
            for root in self.roots:
                found = find_below(root)
                results += found[0]
                runs += found[1]
            version = _fingerprint([folder / RESULT for folder in results])
            runs_version = _fingerprint(
                [
                    p
                    for run in runs
                    for p in (run / METRICS, *sorted((run / "samples").glob("*.png")))
                ]
            )
            changed = version != self.version, runs_version != self.runs_version
            if any(changed):
                self._render(version, [read_run(run) for run in runs], changed[0])
                self.runs_version = runs_version
            return any(changed)

    def _render(self, version: str, runs: Sequence[RunRecord], results_changed: bool) -> None:
        by_name = {run.name: run for run in runs}
        if results_changed:
            try:
                folders = tell_apart(collect(self.roots))
                render_page(folders, self.folder, title=self.title, runs=by_name, live=version)
                self.state = f"live: {_counted(folders, runs)}"
            except ValueError as error:  # said on the page, and read again when files change
                if not self.version:
                    raise
                self.state = f"the page is an older one, for {error}"
            self.version = version
        self.runs = run_facts(runs, newest_first=True)
        write_sheets(runs, self.folder)

    def export(self) -> list[Path]:
        """The page once, as a folder that asks no server for anything; returns its files."""
        runs = [read_run(run) for root in self.roots for run in find_below(root)[1]]
        folders = tell_apart(collect(self.roots))
        self.state = _counted(folders, runs)
        self.runs = run_facts(runs, newest_first=False)
        by_name = {run.name: run for run in runs}
        return render_page(folders, self.folder, title=self.title, runs=by_name)

    def watch(self, stop: threading.Event, seconds: float = 2.0) -> None:
        while not stop.wait(seconds):
            try:
                self.refresh()
            except OSError as error:  # a folder that is being moved: looked at again
                self.state = f"the page is an older one, for {error}"


def _counted(results: Sequence[object], runs: Sequence[object]) -> str:
    counts = ((len(results), "result"), (len(runs), "run"))
    return ", ".join(f"{number} {name}{'s' * (number != 1)}" for number, name in counts)


def _fingerprint(paths: Sequence[Path]) -> str:
    """Of names, sizes and times of files; those that vanish meanwhile are left out."""
    facts = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        facts.append((str(path), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def _answer(self, body: bool) -> None:
        if not self._is_ours():
            self._refuse(HTTPStatus.FORBIDDEN, "this server answers its own page only")
            return
        name = unquote(urlsplit(self.path).path)
        answers = self.server.answers
        if name in answers:
            self._send(json.dumps(answers[name]()).encode(), "application/json", body)
            return
        path = servable(self.server.folder, name)
        if path is None:
            self._refuse(HTTPStatus.NOT_FOUND, "no such file")
            return
        self._send(path.read_bytes(), _TYPES[path.suffix], body)

    def _is_ours(self) -> bool:
        """Whether the request names this server, and comes from no other site's page."""
        port = self.server.server_address[1]
        hosts = {f"{name}:{port}" for name in (HOST, "localhost")}
        origin = self.headers.get("Origin")
        fetched_by = self.headers.get("Sec-Fetch-Site", "none")
        return (
            self.headers.get("Host") in hosts
            and (origin is None or origin in {f"http://{host}" for host in hosts})
            and fetched_by in ("none", "same-origin")
        )

    def _send(self, data: bytes, kind: str, body: bool) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self._finish(data, body)

    def _refuse(self, status: HTTPStatus, words: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.close_connection = True
        self._finish(words.encode() + b"\n", self.command != "HEAD")

    def _finish(self, data: bytes, body: bool) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


def servable(folder: Path, name: str) -> Path | None:
    """The file that a path of a request names, if it is a regular one of a known kind that lies in
    the folder, links followed; else None."""
    if "\\" in name or "\0" in name or not name.startswith("/"):
        return None
    parts = [part for part in name.split("/") if part]
    if any(part.startswith(".") for part in parts):
        return None
    root = folder.resolve()
    path = root.joinpath(*parts) if parts else root / "index.html"
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError):
        return None
    if not path.is_relative_to(root) or not path.is_file() or path.suffix not in _TYPES:
        return None
    return path


class PageServer(ThreadingHTTPServer):
    """Serves a folder with a page; live where it is given a `LiveSite`.

    Args:
        folder: with index.html.
        port: 0 for any that is free.
    """

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0, site: LiveSite | None = None) -> None:
        self.folder = folder
        self.answers: dict[str, Callable[[], Any]] = {}
        if site is not None:
            self.answers = {
                "/live.json": lambda: {
                    "version": site.version,
                    "runs": site.runs_version,
                    "state": site.state,
                },
                "/runs.json": lambda: site.runs,
            }
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.server_address[1]}/"
