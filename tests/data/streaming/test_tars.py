"""Tars: samples, labels and lengths as WebDataset has them, counted once."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from hf_finetune.data.streaming import tars
from hf_finetune.data.streaming.shards import find_file
from hf_finetune.data.streaming.tars import TarShards, first_sample, image_fields, iterate_samples, stated_lengths
from hf_finetune.errors import UserError
from tests.helpers.streamed import write_lengths, write_tars


def write_members(path: Path, *members: tuple[str, bytes | None]) -> Path:
    """Writes a tar; None makes a folder."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            tar.addfile(member, io.BytesIO(content or b""))
    return path


def test_members_of_one_name_are_a_sample(tmp_path) -> None:
    path = write_members(
        tmp_path / "a.tar",
        ("./", None),
        ("./a/x.v1/1.jpg", b"1"),
        ("./a/x.v1/1.seg.png", b"2"),
        ("./a/x.v1/1.CLS", b"3"),
        ("./a/2.jpg", b"4"),
        ("./README", b"no sample"),
        ("./a/" + "n" * 120 + ".jpg", b"5"),
    )
    with tarfile.open(path) as tar:
        samples = [(sample.key, list(sample.members)) for sample in iterate_samples(tar)]
    assert samples == [
        ("./a/x.v1/1", ["jpg", "seg.png", "cls"]),
        ("./a/2", ["jpg"]),
        ("./a/" + "n" * 120, ["jpg"]),
    ]
    assert image_fields(first_sample(find_file(str(path)))) == ["jpg"]


@pytest.mark.parametrize("name", ["s/pic.v1.000", "000.v1"])
def test_names_with_further_dots_are_refused(tmp_path, name) -> None:
    path = write_members(tmp_path / "a.tar", (f"{name}.JPG", b"1"), (f"{name}.cls", b"2"))
    with pytest.raises(UserError, match=r"^(s/pic\.v1\.000|000\.v1)\.JPG: .* such as (pic_v1_000|000_v1)\.JPG\.$"):
        image_fields(first_sample(find_file(str(path))))


def test_a_tar_is_counted_once(tmp_path, datasets_cache, monkeypatch) -> None:
    write_tars(tmp_path, "train", 20, 2)
    files = [find_file(str(path)) for path in sorted(tmp_path.glob("*.tar"))]
    first = TarShards(files, "png", "cls")
    assert first.rows.tolist() == [10, 10] and first.surveys[0].labels == [0, 1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(tars, "_survey", None)
        assert TarShards(files, "png", "cls").surveys == first.surveys
        with pytest.raises(TypeError):  # other labels, another file, or the same one written anew
            TarShards(files, "png", "txt")
        os.utime(files[1].url, ns=(1, 1))
        with pytest.raises(TypeError):
            TarShards(files, "png", "cls")
    for kept in (datasets_cache / "hf_finetune").iterdir():
        kept.write_text("corrupt")
    assert TarShards(files, "png", "cls").surveys == first.surveys


def test_a_cache_that_may_not_be_written_is_done_without(tmp_path, datasets_cache) -> None:
    datasets_cache.write_text("a file, where a folder should be")
    write_tars(tmp_path / "tars", "train", 20, 1)
    assert TarShards([find_file(str(tmp_path / "tars" / "train-0000.tar"))], "png", "cls").rows.tolist() == [20]


def test_samples_without_a_label_are_found(tmp_path, datasets_cache) -> None:
    path = write_members(
        tmp_path / "a.tar", ("1.jpg", b""), ("1.cls", b"7"), ("2.jpg", b""), ("3.jpg", b""), ("3.cls", b" x ")
    )
    (survey,) = TarShards([find_file(str(path))], "jpg", "cls").surveys
    assert (survey.samples, survey.labels, survey.first_without) == (3, [7, "x"], 1)


@pytest.mark.parametrize(
    ("content", "label"),
    [(b'{"kind": "a"}', "a"), (b'{"kind": 3}', 3), (b'{"kind": [3]}', None), (b"[3]", None), (b"{", None)],
)
def test_labels_in_json(tmp_path, datasets_cache, content, label) -> None:
    path = write_members(tmp_path / "a.tar", ("1.jpg", b"image"), ("1.json", content))
    ((images, labels),) = TarShards([find_file(str(path))], "jpg", "json.kind").read(0, 0)
    assert images == [{"bytes": b"image", "path": "a.tar/1.jpg"}] and labels.to_pylist() == [label]


def test_stated_lengths_are_taken_from_beside_the_tars(tmp_path) -> None:
    folder = write_tars(tmp_path, "train", 20, 2)
    files = [find_file(str(path)) for path in sorted(folder.glob("*.tar"))]
    assert stated_lengths(files) is None
    write_lengths(folder, train=[12, 8])
    assert stated_lengths(files) == [12, 8]
    assert stated_lengths(files[::-1]) == [8, 12]
    (folder / "_info.json").write_text('{"splits": {"train": {"filenames": ["other.tar"], "shard_lengths": [1]}}}')
    assert stated_lengths(files) is None
    (folder / "_info.json").write_text("[]")
    assert stated_lengths(files) is None


def test_a_number_with_leading_zeros_stays_text(tmp_path, datasets_cache) -> None:
    path = write_members(tmp_path / "a.tar", ("1.jpg", b""), ("1.cls", b"01"), ("2.jpg", b""), ("2.cls", b"1"))
    (survey,) = TarShards([find_file(str(path))], "jpg", "cls").surveys
    assert sorted(map(repr, survey.labels)) == ["'01'", "1"]
