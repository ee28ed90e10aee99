"""Every parser of state under thousands of edits: what it takes, or one sentence, never more.

300 cases in the checks of every change, 10,000 in `scripts.checks.fault_report`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evals.image_identity import ImageIdentity, identity_of_marker
from evals.report.result_folders import read_result_folder
from evals.results import read_result
from evals.results import write_result as write_sealed
from evals.scoring.detections import check_provenance, read_detections
from evals.scoring.work_file import WorkFile, sound_rows
from evals.verdicts import read_verdicts
from selfe.config.assignments import parse_assignments
from selfe.data.latent_cache.index import read_index, read_shard_record, shard_folder
from selfe.files import file_sha256
from selfe.run_folder.checkpoint_state import read_state
from selfe.run_folder.records import read_config, write_config
from selfe.sealed_files import seal
from selfe.training.metrics_log import read_lines
from tests.helpers.image_data import make_items, write_tars
from tests.helpers.synthetic_results import write_result
from tests.helpers.tiny import tiny_config, tiny_train
from tests.test_prepare import run_prepare


@dataclass(frozen=True)
class Parser:
    """A file, what reads it, and whether the file is sealed: then no edit may go unnoticed."""

    path: Path
    read: Callable[[], Any]
    sealed: bool = True


@pytest.fixture(scope="module")
def parsers(tmp_path_factory) -> list[Parser]:
    root = tmp_path_factory.mktemp("parsers")
    run, config = root / "run", tiny_config("fm")
    run.mkdir()
    write_config(run, config, data={}, command="selfe-bench train")
    tiny_train(config, run)
    old = root / "old"
    shutil.copytree(run, old)
    unseal(old / "config.json")
    unseal(old / "checkpoints" / "step-00000008" / "state.json")
    run_prepare(write_tars(root / "tars", make_items(4), 2), root / "cache")
    old_result = write_result(root / "old result")
    result = write_result(root / "result")
    write_sealed(result, read_result_folder(result).result)
    rows = [
        {
            "prompt_id": n,
            "sample_id": 0,
            "size": [8, 8],
            "detections": [{"label": "cow", "box": [0.0, 0, 2, 2], "score": 0.5, "color": None}],
        }
        for n in range(3)
    ]
    stored = root / "detections.jsonl"
    stored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    beside = root / ".detections.json"
    beside.write_text(seal("detections", {"records": "ab", "detections": file_sha256(stored)}))
    work = root / "work.jsonl"
    WorkFile(work, {"a": 1}).append(rows)
    marker = root / "marker.json"
    marker.write_text(ImageIdentity("s", 0, 1, "a cow").as_document(reason="not finite"))
    assignment = root / "assignment"
    assignment.write_text('train.stages=[{"start": 5, "resolutions": {"256": 1.5}}]')
    state, shard = Path("checkpoints", "step-00000008"), shard_folder(root / "cache", 0)
    return [
        Parser(run / state / "state.json", lambda: read_state(run / state)),
        Parser(run / "config.json", lambda: read_config(run)),
        Parser(run / "metrics.jsonl", lambda: read_lines(run / "metrics.jsonl", config.digest)),
        Parser(root / "cache" / "index.json", lambda: read_index(root / "cache")),
        Parser(shard / "shard.json", lambda: read_shard_record(shard)),
        Parser(result / "result.json", lambda: read_result(result)),
        Parser(beside, lambda: check_provenance(stored)),
        Parser(work, lambda: sound_rows(work, {"a": 1})),
        Parser(marker, lambda: identity_of_marker(marker.read_bytes(), marker)),
        Parser(old / "config.json", lambda: read_config(old), False),
        Parser(old / state / "state.json", lambda: read_state(old / state), False),
        Parser(old_result / "result.json", lambda: read_result_folder(old_result), False),
        Parser(old_result / "images.jsonl", lambda: read_verdicts(old_result), False),
        Parser(stored, lambda: read_detections(stored, 3), False),
        Parser(assignment, lambda: parse_assignments([assignment.read_text()]), False),
    ]


def unseal(path: Path) -> None:
    record = json.loads(path.read_text())
    for key in ("what", "checksum", "run"):
        record.pop(key, None)
    path.write_text(json.dumps(record, indent=1))


_PIECES = st.sampled_from(
    [b"null", b"[]", b"{}", b"1e400", b"NaN", b"-1", b"9" * 24, b'"x"', b'"', b"\\"]
    + [b"[" * 200, b"\xff", b"\x00", b"\n", b"true", b"0.5", b'"\\ud800"', b",", b":", b"}"]
) | st.binary(min_size=1, max_size=3)  # fmt: skip
_EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 12), _PIECES | st.just(b"")),
    min_size=1,
    max_size=3,
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """At places of the document, some bytes are replaced by others; or a whole value is."""
    for place, length, piece in edits:
        start = int(place * len(data))
        data = data[:start] + piece + data[start + length :]
    return data


def cases(request: pytest.FixtureRequest) -> int:
    return 10_000 if request.config.getoption("--fault-count") == "full" else 300


@pytest.mark.fault(28)
def test_no_edit_of_any_state_ends_in_a_traceback_or_goes_unnoticed(parsers, request):
    wholes = [(parser.path.read_bytes(), parser.read()) for parser in parsers]

    @settings(
        max_examples=cases(request),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(parsers) - 1), _EDITS)
    def attack(number: int, edits: list[tuple[float, int, bytes]]) -> None:
        parser, (data, whole) = parsers[number], wholes[number]
        parser.path.write_bytes(edited(data, edits))
        try:
            found = parser.read()
        except ValueError as error:
            assert str(error) and "Traceback" not in str(error)
        else:
            if parser.sealed:
                assert unchanged(found, whole), (parser.path, edits)
        finally:
            parser.path.write_bytes(data)

    attack()


def unchanged(found: Any, whole: Any) -> bool:
    """The same, or less of it where damage costs what was damaged alone: rows, a shard."""
    if found is None or found == whole:
        return True
    return isinstance(whole, list) and found == whole[: len(found)]
