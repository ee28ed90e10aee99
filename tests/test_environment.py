"""Which process this is, as a launcher says it: one reader for training, drawing and preparing."""

from __future__ import annotations

import pytest

from selfe.distributed.environment import Place, launched, place_of_process

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR")


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_a_process_is_alone():
    assert place_of_process() == Place() and not launched()


def test_what_torchrun_says_is_read(monkeypatch):
    for name, value in zip(NAMES, ("5", "8", "1", "4", "node0"), strict=True):
        monkeypatch.setenv(name, value)
    assert place_of_process() == Place(5, 8, 1, 4, True, "node0") and launched()


def test_processes_of_a_machine_are_all_where_the_launcher_does_not_say(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert place_of_process().local_size == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("WORLD_SIZE", "two"), ("RANK", "-1"), ("LOCAL_RANK", "1.0"), ("RANK", "²")],
)
def test_what_is_no_number_is_named(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"environment variable {name} must be a number"):
        place_of_process()


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("0", "0")])
def test_a_rank_outside_the_size_is_refused(rank, size, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ValueError, match="WORLD_SIZE"):
        place_of_process()
