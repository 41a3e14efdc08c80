"""Columns are found by type, and images of any kind become one kind of column."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from hf_finetune.data.columns import (
    RowsOf,
    are_files,
    find_image_column,
    find_label_column,
    image_dataset,
    refuse_labels,
)
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError


def png() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.zeros((2, 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def raw_of(columns: dict, features: dict | None = None, folder: Path | None = None) -> RawDataset:
    dataset = Dataset.from_dict(columns, features=Features(features) if features else None)
    return RawDataset({"train": dataset}, source="pets", folder=folder)


def of_types(**features: object) -> RawDataset:
    return raw_of({name: [] for name in features}, features)


def test_image_column_by_type() -> None:
    columns = of_types(name=Value("string"), img=Image(), label=Value("int64"))
    assert find_image_column(columns, "train", None) == "img"
    assert find_image_column(of_types(x={"bytes": Value("binary"), "path": Value("string")}), "train", None) == "x"
    assert find_image_column(of_types(x=Value("binary"), y=Value("string")), "train", None) == "x"
    assert find_image_column(of_types(image=Image(), depth=Image()), "train", None) == "image"


def test_image_column_of_paths_by_their_endings() -> None:
    columns = raw_of({"kind": ["cat.v1", "dog.v1"], "file": ["a/1.JPG", "b.png"]})
    assert find_image_column(columns, "train", None) == "file"


def test_image_column_refused() -> None:
    with pytest.raises(
        UserError, match=r"no column of split train holds images; the columns are x \(int64\), y \(List\)"
    ):
        find_image_column(of_types(x=Value("int64"), y=List(Value("uint8"))), "train", None)
    with pytest.raises(
        UserError, match=r"2 columns could hold the images: left \(Image\), right \(Image\)\. Use --image_column"
    ):
        find_image_column(of_types(left=Image(), right=Image()), "train", None)
    with pytest.raises(
        UserError, match=r'image_column: pets has no column "imgs" .* Did you mean "img"\? The columns are img'
    ):
        find_image_column(of_types(img=Image()), "train", "imgs")
    with pytest.raises(UserError, match=r'image_column: "pixels" of pets is List; images are files'):
        find_image_column(of_types(pixels=List(List(Value("uint8")))), "train", "pixels")


def test_chosen_and_expected_columns() -> None:
    columns = of_types(left=Image(), right=Image(), fine=ClassLabel(names=["a"]), coarse=ClassLabel(names=["b"]))
    assert find_image_column(columns, "train", "right", "left") == "right"
    assert find_image_column(columns, "train", None, "left") == "left"
    assert find_label_column(columns, "train", "left", "coarse", "fine") == "coarse"
    assert find_label_column(columns, "train", "left", None, "fine") == "fine"
    # A copy of a named dataset may call its columns otherwise.
    assert find_image_column(of_types(image=Image()), "train", None, "img") == "image"


def test_label_column_by_type() -> None:
    columns = of_types(image=Image(), id=Value("int64"), kind=ClassLabel(names=["a"]))
    assert find_label_column(columns, "train", "image", None) == "kind"
    columns = of_types(image=Image(), kind=Value("string"), split=Value("string"), weight=Value("float32"))
    assert find_label_column(columns, "train", "image", None) == "kind"
    assert find_label_column(of_types(x=Image(), label=Value("int8"), n=Value("int8")), "train", "x", None) == "label"


def test_label_column_refused() -> None:
    with pytest.raises(
        UserError, match=r"2 columns could hold the labels: kind \(string\), id \(int64\)\. Use --label_column"
    ):
        find_label_column(of_types(x=Image(), kind=Value("string"), id=Value("int64")), "train", "x", None)
    with pytest.raises(
        UserError, match=r"no column of split train holds labels; the columns are x \(Image\), y \(float32\)"
    ):
        find_label_column(of_types(x=Image(), y=Value("float32")), "train", "x", None)
    with pytest.raises(UserError, match=r'label_column: pets has no column "labl" .* Did you mean "label"\?'):
        find_label_column(of_types(x=Image(), label=Value("int64")), "train", "x", "labl")


@pytest.mark.parametrize(
    ("values", "feature"),
    [
        ([png(), png()], Value("binary")),
        ([{"bytes": png(), "path": None}] * 2, {"bytes": Value("binary"), "path": Value("string")}),
        ([{"bytes": png()}] * 2, {"bytes": Value("binary")}),
        ([{"bytes": png(), "path": None}] * 2, Image()),
    ],
)
def test_images_inside_the_dataset(values: list, feature: object) -> None:
    images = image_dataset(raw_of({"x": values, "n": [1, 2]}, {"x": feature, "n": Value("int64")}), "train", "x")
    assert images.features == {"image": Image(decode=False)}
    assert images[1] == {"image": {"bytes": png(), "path": None}}
    assert not are_files(images)


@pytest.mark.parametrize("feature", [Value("string"), Value("large_string"), Image()])
def test_paths_start_at_the_folder(feature: object, tmp_path: Path) -> None:
    raw = raw_of({"file": ["cats/1.jpg", "/elsewhere/2.jpg"]}, {"file": feature}, tmp_path)
    images = image_dataset(raw, "train", "file")
    assert images.features == {"image": Image(decode=False)}
    assert images["image"][:] == [
        {"bytes": None, "path": f"{tmp_path}/cats/1.jpg"},
        {"bytes": None, "path": "/elsewhere/2.jpg"},
    ]
    assert are_files(images)


@pytest.mark.parametrize(
    "url", ["http://h/1.png", "HTTPS://user:secret@h/1.png", "s3://b/1.png", "data:image/png;base64,AAAA", "gs://b/1"]
)
@pytest.mark.parametrize("feature", [Value("string"), Image()])
def test_a_url_is_no_image(url: str, feature: object) -> None:
    raw = raw_of({"image": ["1.png", url]}, {"image": feature})
    with pytest.raises(
        UserError, match=r"column image of split train holds URLs \(\w+: in row 1, .*download"
    ) as caught:
        image_dataset(raw, "train", find_image_column(raw, "train", None))
    assert "secret" not in str(caught.value)


def test_integers_that_became_floats_are_labels() -> None:
    raw = raw_of({"image": ["1.png"] * 3, "class": [1.0, None, float("nan")], "weight": [0.5, 1.0, 2.0]})
    assert find_label_column(raw, "train", "image", None) == "class"
    raw = raw_of({"image": ["1.png"], "name": ["a"], "label": [1.0]})
    assert find_label_column(raw, "train", "image", None) == "label"
    raw = raw_of({"image": ["1.png"], "name": ["a"], "width": [32.0]})
    assert find_label_column(raw, "train", "image", None) == "name"


def test_rows_of_a_column_of_many_chunks_are_those_that_take_gives():
    dataset = Dataset(pa.table({"number": pa.chunked_array([[0, 1, 2], [], [3], [4, 5, 6, 7]])}))
    for rows in (np.array([0, 2, 3, 4, 7]), np.array([7, 0, 3]), np.array([], np.int64)):
        assert RowsOf(dataset, "number").read(rows) == rows.tolist()
    chosen = RowsOf(dataset.select([6, 1, 4, 3]), "number")
    assert (len(chosen), chosen.read(np.array([0, 3, 1]))) == (4, [6, 3, 1])


@pytest.mark.parametrize("kind", [ClassLabel(names=["a", "b"]), List(ClassLabel(names=["a", "b"]))])
def test_the_only_classes_have_no_other_use(kind: object) -> None:
    columns = of_types(img=Image(), tags=kind, place=Value("string"))
    with pytest.raises(UserError, match="group_column: tags is the column of labels of pets; use another column"):
        refuse_labels(columns, "train", "group_column", ["tags"], None)
    refuse_labels(columns, "train", "group_column", ["place", None], None)
    both = of_types(img=Image(), tags=kind, place=ClassLabel(names=["c", "d"]))
    refuse_labels(both, "train", "group_column", ["tags"], None)
