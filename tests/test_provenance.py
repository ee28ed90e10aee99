"""What stands beside a figure says on what it was measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from selfe.provenance import machine


def test_machine_names_its_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    core = "processor\t: 0\nmodel name\t: Some CPU @ 2: GHz\n"
    monkeypatch.setattr(Path, "read_text", lambda path: 2 * core)
    assert re.fullmatch(r"\d+ x \S+ cores \(Some CPU @ 2: GHz\), \d+ GiB", machine())
    monkeypatch.setattr(Path, "read_text", lambda path: "processor\t: 0\n")
    assert re.fullmatch(r"\d+ x \S+ cores, \d+ GiB", machine())
