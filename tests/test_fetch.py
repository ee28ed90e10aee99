"""Downloads from a server on this machine: resumed, checked, and honest when they fail."""

from __future__ import annotations

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from evals.detectors import weights

CONTENT = bytes(range(256)) * 4096


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT; `server.breaks` connections end half way; `server.ranges` turns 206 on."""

    def do_GET(self):
        server = self.server
        start = 0
        asked = self.headers.get("Range")
        server.asked.append(asked)
        if asked and server.ranges:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        if asked and server.ranges and start >= len(CONTENT):
            self.send_error(416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.breaks:
            server.breaks -= 1
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.breaks, server.ranges = [], 0, True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def published(server, sha256: str | None = None) -> weights.PublishedFile:
    return weights.PublishedFile(
        name="weights.pth",
        url=f"http://127.0.0.1:{server.server_address[1]}/weights.pth",
        sha256=sha256 or hashlib.sha256(CONTENT).hexdigest()[:8],
        role="test",
    )


def test_a_file_arrives_whole_and_is_not_fetched_again(server, tmp_path):
    seen = []
    paths = weights.fetch(
        cache_dir=tmp_path / "deep" / "cache",
        files=[published(server)],
        progress=lambda name, done, total: seen.append((name, done, total)),
    )
    assert paths[0].read_bytes() == CONTENT
    assert seen[-1] == ("weights.pth", len(CONTENT), len(CONTENT))
    weights.fetch(cache_dir=tmp_path / "deep" / "cache", files=[published(server)])
    assert server.asked == [None]
    assert [p.name for p in paths[0].parent.iterdir()] == ["weights.pth"]


@pytest.mark.fault
def test_interrupted_downloads_go_on_where_they_stopped(server, tmp_path):
    server.breaks = 2
    path = weights.fetch(cache_dir=tmp_path, files=[published(server)])[0]
    assert path.read_bytes() == CONTENT
    half = len(CONTENT) // 2
    assert server.asked == [None, f"bytes={half}-", f"bytes={half + half // 2}-"]


@pytest.mark.fault
def test_a_later_call_goes_on_too(server, tmp_path):
    server.breaks = weights.ATTEMPTS
    with pytest.raises(ValueError, match="again where there is a connection"):
        weights.fetch(cache_dir=tmp_path, files=[published(server)])
    assert not (tmp_path / "weights.pth").exists()
    assert weights.fetch(cache_dir=tmp_path, files=[published(server)])[0].read_bytes() == CONTENT
    assert server.asked[-1] is not None


@pytest.mark.fault
def test_a_server_without_ranges_starts_again(server, tmp_path):
    server.ranges, server.breaks = False, 1
    assert weights.fetch(cache_dir=tmp_path, files=[published(server)])[0].read_bytes() == CONTENT


@pytest.mark.fault
def test_a_complete_part_file_is_only_renamed(server, tmp_path):
    (tmp_path / ".weights.pth.part").write_bytes(CONTENT)
    assert weights.fetch(cache_dir=tmp_path, files=[published(server)])[0].read_bytes() == CONTENT


@pytest.mark.fault(23)
def test_two_fetches_at_once_take_turns(server, tmp_path):
    """Each of several processes gets the file; one downloads it, and no part or lock is left."""
    from concurrent.futures import ThreadPoolExecutor

    server.breaks = 1
    with ThreadPoolExecutor(4) as pool:  # flock holds between open files, also of one process
        jobs = [
            pool.submit(weights.fetch, cache_dir=tmp_path, files=[published(server)])
            for _ in range(4)
        ]
        paths = [job.result()[0] for job in jobs]
    assert all(path.read_bytes() == CONTENT for path in paths)
    assert len(server.asked) == 2  # the first broke off
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pth"]


def test_no_home_is_one_sentence(monkeypatch):
    from selfe.files import default_cache

    for name in ("SELFE_BENCH_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", lambda: (_ for _ in ()).throw(RuntimeError("none")))
    with pytest.raises(ValueError, match="no home folder: set SELFE_BENCH_CACHE"):
        default_cache()


@pytest.mark.fault(24)
def test_wrong_hash_is_thrown_away(server, tmp_path):
    with pytest.raises(ValueError, match="does not begin with 00000000"):
        weights.fetch(cache_dir=tmp_path, files=[published(server, "00000000")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(24)
def test_a_wrong_file_already_there_is_named(server, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(ValueError, match="not the published file.*delete it"):
        weights.fetch(cache_dir=tmp_path, files=[published(server)])
    assert server.asked == []


@pytest.mark.fault(25)
def test_offline_says_which_files_to_put_where(server, tmp_path):
    gone = published(server)
    server.shutdown()
    server.server_close()
    started = time.monotonic()
    with pytest.raises(ValueError) as refused:
        weights.fetch(cache_dir=tmp_path, files=[gone, weights.CLIP_VIT_L_14])
    assert time.monotonic() - started < 10
    message = str(refused.value)
    assert str(tmp_path / "weights.pth") in message
    assert weights.CLIP_VIT_L_14.url in message and weights.CLIP_VIT_L_14.sha256 in message


def test_names_and_hashes_of_the_published_files_agree():
    for file in weights.DETECTOR_FILES:
        assert file.name.removesuffix(".pth").endswith(file.sha256)
        assert file.url.endswith(file.name)
    assert weights.CLIP_VIT_L_14.sha256 in weights.CLIP_VIT_L_14.url
    with pytest.raises(
        ValueError, match=r"unknown download 'weights' \(known: geneval, geneval-long, fidelity\)"
    ):
        weights.fetch("weights")
