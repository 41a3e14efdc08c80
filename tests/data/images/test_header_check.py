"""The look at the headers finds sizes and broken images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
from datasets import Dataset, Features, Image

from hf_finetune.data.images.decoding import UnreadableImage, Unused
from hf_finetune.data.images.header_check import check_headers, count_unused, describe_bad_image
from hf_finetune.data.images.unused import describe_unused

_FEATURES = Features({"image": Image(decode=False)})


def write(path: Path, height: int = 4, width: int = 6) -> str:
    PIL.Image.fromarray(np.zeros((height, width), dtype=np.uint8)).save(path)
    return str(path)


def test_every_image_is_looked_at(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.png") for n in range(600)]
    assert check_headers(Dataset.from_dict({"image": paths}, _FEATURES), every=True).sizes == {(4, 6)}
    write(tmp_path / "300.png", height=5)
    (tmp_path / "7.png").write_text("no image")
    (tmp_path / "599.png").unlink()
    check = check_headers(Dataset.from_dict({"image": paths}, _FEATURES), every=True)
    assert check.sizes == {(4, 6), (5, 6)}
    assert {row: error.reason for row, error in check.bad_rows.items()} == {7: "not an image", 599: "no such file"}


def test_sample_is_spread_from_first_to_last(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.png"), str(tmp_path / "bad.png")
    rows = [bad, *[good] * 1000, bad]
    check = check_headers(Dataset.from_dict({"image": rows}, _FEATURES), every=False)
    assert sorted(check.bad_rows) == [0, 1001]
    assert check_headers(Dataset.from_dict({"image": [good]}, _FEATURES), every=False).sizes == {(4, 6)}


def test_pages_of_a_sample(tmp_path: Path) -> None:
    page = PIL.Image.fromarray(np.zeros((4, 6), dtype=np.uint8))
    page.save(tmp_path / "many.tif", save_all=True, append_images=[page])
    rows = [str(tmp_path / "many.tif")] * 80
    pages = count_unused(check_headers(Dataset.from_dict({"image": rows}, _FEATURES), every=False).headers)
    assert describe_unused(pages, sampled=True) == [
        "64 of the 64 images looked at have more than one page or frame; the first is used."
    ]
    assert describe_unused(Counter({Unused.NONE: 5})) == []
    assert describe_unused(Counter({Unused.NONE: 1_999, Unused.MORE: 1})) == [
        "1 of 2,000 images has more than one page or frame; the first is used."
    ]


def test_bits_that_are_not_used_are_counted_beside_pages() -> None:
    both = Unused.MORE | Unused.LOW_BITS
    assert describe_unused(Counter({Unused.NONE: 7, Unused.LOW_BITS: 1, both: 2})) == [
        "2 of 10 images have more than one page or frame; the first is used.",
        "3 of 10 images have colours of more than 8 bits per channel; the upper 8 bits are used.",
    ]


def test_row_without_a_image() -> None:
    check = check_headers(Dataset.from_dict({"image": [None]}, _FEATURES), every=True)
    assert check.bad_rows[0].reason == "there is no image"


def test_selected_rows_keep_their_place(tmp_path: Path) -> None:
    paths = [write(tmp_path / "good.png"), str(tmp_path / "gone.png")]
    selected = Dataset.from_dict({"image": paths}, _FEATURES).select([1, 0, 1])
    assert sorted(check_headers(selected, every=True).bad_rows) == [0, 2]


def test_names_in_messages(tmp_path: Path) -> None:
    below, elsewhere = str(tmp_path / "cats" / "1.jpg"), "/elsewhere/1.jpg"
    assert describe_bad_image(UnreadableImage(below, "empty file"), tmp_path, "train", 3) == "cats/1.jpg (empty file)"
    missing = UnreadableImage(below, "no such file")
    assert describe_bad_image(missing, tmp_path, "train", 3) == "cats/1.jpg (no such file, row 3 of train)"
    assert (
        describe_bad_image(UnreadableImage(elsewhere, "truncated"), tmp_path, "train", 3) == f"{elsewhere} (truncated)"
    )
    inside = UnreadableImage("0001.png", "truncated")
    assert describe_bad_image(inside, None, "test", 8) == "row 8 of test (truncated)"
