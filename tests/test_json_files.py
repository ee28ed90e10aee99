"""The door for JSON: what it refuses, and on which line; seals; and that only faults leave it."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfe.json_files import (
    STRICT,
    JsonFault,
    end_last_line,
    line_of,
    parse_json,
    read_json,
    read_json_lines,
)
from selfe.sealed_files import chained, read_chained_lines, read_sealed, seal


@dataclass(frozen=True)
class Box:
    """A schema to read."""

    __pydantic_config__ = STRICT

    width: int
    names: tuple[str, ...]
    scale: float = 1.0


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "empty"),
        ('{"a": 1,\n "b": NaN}', 1, "NaN"),
        ("[Infinity]", 1, "Infinity"),
        ("[1e400]", 1, "too large"),
        ("[" + "9" * 30 + "]", 1, "too large"),
        ("[" + "9" * 5000 + "]", 1, "too large"),
        ('{"a": 1, "b": 2, "a": 3}', 1, "given twice"),
        ('{"a": 1,\n\n}', 3, "not JSON"),
        ('{"a": 1} {"b": 2}', 1, "not JSON"),
        ("[" * 100_000, 1, "nested deeper"),
        ("[" * 40 + "]" * 40, 1, "nested deeper"),
        ('["\\ud800"]', 1, "surrogate"),
    ],
)
def test_what_is_not_taken_is_named_with_file_and_line(tmp_path, text, line, reason):
    path = tmp_path / "state.json"
    path.write_text(text)
    with pytest.raises(JsonFault) as caught:
        read_json(path, dict)
    assert str(path) in str(caught.value) and reason in str(caught.value)
    assert caught.value.line in (line, None)


def test_text_that_is_not_utf8_is_named_with_its_line():
    with pytest.raises(JsonFault, match="file, line 2: not UTF-8"):
        parse_json(b'{"a":\n "\xe9"}', "file")


def test_a_byte_order_mark_and_pairs_of_surrogates_are_text():
    assert parse_json('\ufeff{"a": "\\ud83d\\ude00"}'.encode(), "file") == {"a": "\U0001f600"}


def test_a_deep_document_within_the_limit_is_read():
    assert parse_json("[" * 32 + "]" * 32, "file")
    assert len(parse_json("[" + "[]," * 100 + "[]]", "file")) == 101


def test_nonfinite_numbers_are_read_where_they_are_asked_for():
    assert parse_json("[Infinity]", "file", nonfinite=True) == [math.inf]
    with pytest.raises(JsonFault, match="too large"):
        parse_json("[1e999]", "file", nonfinite=True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"width": "3"}, "line 2: width"),
        ({"width": True}, "line 2: width"),
        ({"width": 3.5}, "line 2: width"),
        ({"width": None}, "line 2: width"),
        ({"names": ["a", 1]}, "line 5: names.1"),
        ({"names": {}}, "line 3: names"),
        ({"other": 1}, "line 8: other"),
    ],
)
def test_another_type_is_named_with_its_key_and_line(tmp_path, change, named):
    path = tmp_path / "box.json"
    values = {"width": 3, "names": ["a", "b"], "scale": 2}
    path.write_text(json.dumps({**values, **change}, indent=1))
    with pytest.raises(JsonFault) as caught:
        read_json(path, Box)
    assert named.partition(":")[2] in str(caught.value)
    if "names" not in change or change["names"]:
        assert named in str(caught.value)


def test_a_schema_reads_what_it_describes(tmp_path):
    path = tmp_path / "box.json"
    path.write_text('{"width": 3, "names": ["a"], "scale": 2}')
    assert read_json(path, Box) == Box(3, ("a",), 2.0)


def test_a_list_where_a_map_is_due_and_a_missing_key(tmp_path):
    path = tmp_path / "box.json"
    for text in ("[]", "null", "3", '{"names": []}'):
        path.write_text(text)
        with pytest.raises(JsonFault, match=r"box\.json, line 1"):
            read_json(path, Box)


def test_lines_of_places():
    text = '{\n "a": [\n  1,\n  {"b": "}",\n   "c": 2}],\n "d": 3}'
    assert [line_of(text, place) for place in (["a"], ["a", 1], ["a", 1, "c"], ["d"])] == [
        *(2, 4, 5, 6)
    ]
    assert line_of(text, ["a", 7]) == 2


def test_files_without_end_and_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(JsonFault, match="no regular file"):
        read_json(tmp_path / "pipe", dict)
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2000)
    with pytest.raises(JsonFault, match="larger than"):
        read_json(tmp_path / "large", dict, most=1000)
    with pytest.raises(JsonFault, match="line 1: longer than"):
        list(read_json_lines(tmp_path / "large", most=1000))


@pytest.mark.fault(21)
def test_a_whole_last_line_counts_without_its_line_break(tmp_path):
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n\n{"a": 2}')
    assert list(read_json_lines(path)) == [(1, {"a": 1}), (3, {"a": 2})]
    end_last_line(path)
    assert path.read_text() == '{"a": 1}\n\n{"a": 2}\n'


@pytest.mark.fault(21)
def test_a_torn_last_line_is_dropped_and_cut_off(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes('{"a": 1}\n{"a": "\u00e9'.encode()[:-1])
    assert list(read_json_lines(path)) == [(1, {"a": 1})]
    end_last_line(path)
    assert path.read_text() == '{"a": 1}\n'


def test_a_broken_line_before_the_last_is_named(tmp_path):
    path = tmp_path / "lines"
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(JsonFault, match="line 2"):
        list(read_json_lines(path))


def test_a_seal_notices_every_changed_byte_that_changes_a_value(tmp_path):
    path = tmp_path / "sealed.json"
    text = seal("box", {"step": 12, "sha256": {"a": "0f"}, "milestone": False})
    path.write_text(text)
    whole = read_sealed(path, dict, "box", required=True)
    assert whole == {"step": 12, "sha256": {"a": "0f"}, "milestone": False}
    for place in range(len(text)):
        for character in "19xT":
            path.write_text(text[:place] + character + text[place + 1 :])
            try:
                assert read_sealed(path, dict, "box", required=True) == whole
            except JsonFault:
                pass


def test_what_has_no_seal_is_read_where_that_is_allowed(tmp_path):
    path = tmp_path / "old.json"
    path.write_text('{"step": 12}')
    assert read_sealed(path, dict, "box") == {"step": 12}
    with pytest.raises(JsonFault, match="is missing"):
        read_sealed(path, dict, "box", required=True)


def test_one_kind_of_document_in_the_place_of_another(tmp_path):
    path = tmp_path / "sealed.json"
    path.write_text(seal("circle", {"step": 12}))
    with pytest.raises(JsonFault, match="it is a circle, not a box"):
        read_sealed(path, dict, "box")


def _write_chain(path: Path, records: list[dict], first: str) -> list[str]:
    lines, last = [], first
    for record in records:
        sealed = chained(record, last)
        last = sealed["check"]
        lines.append(json.dumps(sealed) + "\n")
    path.write_text("".join(lines))
    return lines


def test_a_chain_notices_changed_swapped_and_lost_lines_and_another_owner(tmp_path):
    path = tmp_path / "chain"
    records = [{"step": n, "loss": n / 7} for n in range(5)]
    lines = _write_chain(path, records, "mine")
    assert [r for _, r in read_chained_lines(path, "mine")] == records
    assert [r for _, r in read_chained_lines(path, None)] == records
    for damaged in (
        lines[1:],
        [lines[0], *lines[2:]],
        [lines[1], lines[0], *lines[2:]],
        [*lines[:2], lines[2].replace('"step": 2', '"step": 7'), *lines[3:]],
        [json.dumps(records[0]) + "\n", *lines[1:]],
        [*lines[:3], json.dumps(records[3]) + "\n", lines[4]],
    ):
        path.write_text("".join(damaged))
        with pytest.raises(JsonFault, match="line"):
            list(read_chained_lines(path, "mine"))
    path.write_text("".join(lines))
    with pytest.raises(JsonFault, match="line 1"):
        list(read_chained_lines(path, "another"))


def test_lines_of_an_earlier_version_are_read_as_they_are(tmp_path):
    path = tmp_path / "old"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    assert [r for _, r in read_chained_lines(path, "mine")] == [{"step": 1}, {"step": 2}]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)  # fmt: skip


@given(_VALUES)
@settings(max_examples=100, deadline=None)
def test_what_the_standard_writer_writes_comes_back(value):
    assert parse_json(json.dumps(value), "file") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "file") == value


_NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,4})?", fullmatch=True
)


_AT_THE_LIMIT = st.sampled_from([
    str(2**64), str(2**64 - 1), str(-(2**64)), "9" * 19, "9" * 400, "1e308", "1e309", "1E400",
    "1e+999", "1.5e0999", "1e-400", "9" * 400 + ".0", "NaN", "-Infinity",
])  # fmt: skip


@given(st.lists(_NUMBERS | _AT_THE_LIMIT, max_size=3), st.booleans())
@settings(max_examples=300, deadline=None)
def test_the_fast_reader_takes_the_numbers_that_the_careful_one_takes(numbers, nonfinite):
    """Text goes to the careful reader; bytes to the fast one, where no number can be too large."""

    def read(data: bytes | str) -> object:
        try:
            return repr(parse_json(data, "file", nonfinite=nonfinite))
        except JsonFault as fault:
            return str(fault)

    text = f"[{', '.join(numbers)}]"
    assert read(text) == read(text.encode())


_PIECES = st.lists(
    st.sampled_from(['{"', '":', '"', "[", "]", "}", ",", "1", "e400", "NaN", "\\u", "d800", " "])
    | st.text(max_size=3),
    max_size=12,
).map("".join)


@given(_PIECES.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40))
@settings(max_examples=300, deadline=None)
def test_nothing_but_a_fault_leaves_the_door(data):
    try:
        value = parse_json(data, "file")
    except JsonFault as fault:
        assert str(fault).startswith("file")
    else:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
