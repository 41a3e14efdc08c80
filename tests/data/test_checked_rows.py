"""Rows with checksums: what a disk has changed is found when it is first read, and can be replaced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_finetune.data.checked_rows import CheckedRows, DamagedFile, write_sums

SHAPE = (1000, 20, 50)  # four blocks of 262 rows


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))
    write_sums(path)
    return path


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def test_what_is_whole_is_read(rows: Path) -> None:
    checked = CheckedRows(rows, SHAPE, np.uint8)
    assert checked.damaged(np.array([999, 0])) == [] and checked.damaged() == []
    assert np.array_equal(checked.values, np.load(rows))


@pytest.mark.parametrize("row", [0, 261, 262, 999])
def test_a_flipped_bit_is_found_with_the_first_row_of_its_block(rows: Path, row: int) -> None:
    expected = np.load(rows)
    flip(rows, 128 + row * 1000 + 17)
    checked = CheckedRows(rows, SHAPE, np.uint8)
    block = range(row // 262 * 262, min(1000, row // 262 * 262 + 262))
    others = np.array([number for number in range(1000) if number not in block])
    assert checked.damaged(others) == []
    assert checked.damaged(np.array([block[-1]])) == [block] == checked.damaged()
    checked.replace(block, expected[block.start : block.stop])
    assert checked.damaged() == [] and np.array_equal(checked.values, expected)
    assert CheckedRows(rows, SHAPE, np.uint8).damaged() == []


def test_a_flipped_checksum_is_damage_too(rows: Path) -> None:
    expected = np.load(rows)
    flip(rows, -9)
    checked = CheckedRows(rows, SHAPE, np.uint8)
    (block,) = checked.damaged()
    checked.replace(block, expected[block.start : block.stop])
    assert CheckedRows(rows, SHAPE, np.uint8).damaged() == []


def test_a_file_that_cannot_be_written_is_replaced_in_memory(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = np.load(rows)
    flip(rows, 200)
    checked = CheckedRows(rows, SHAPE, np.uint8)
    (block,) = checked.damaged()
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError()))
    checked.replace(block, expected[block.start : block.stop])
    assert checked.damaged() == [] and np.array_equal(checked.values, expected)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:50],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b"1000", b"1001", 1),
        lambda content: content.replace(b"|u1", b"|i1", 1),
        lambda content: content.replace(b"descr", b"d(scr", 1),
    ],
)
def test_a_file_of_another_length_or_header_is_refused(rows: Path, damage) -> None:
    rows.write_bytes(damage(rows.read_bytes()))
    with pytest.raises(DamagedFile, match=r"^rows\.npy: "):
        CheckedRows(rows, SHAPE, np.uint8)


def test_sums_are_written_once(rows: Path) -> None:
    content = rows.read_bytes()
    write_sums(rows)
    assert rows.read_bytes() == content
