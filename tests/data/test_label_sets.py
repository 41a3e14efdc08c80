"""Several labels an image, from every way in which datasets write them, become the same array."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value

from hf_finetune.config.data import DataArguments
from hf_finetune.data.batches import NOT_COUNTED, ImageBatches
from hf_finetune.data.build import build_dataset
from hf_finetune.data.columns import label_array
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.fingerprint import fingerprint_of
from hf_finetune.data.stages import EvaluationStage
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import UserError
from hf_finetune.tasks import SEVERAL_LABELS

SETS = [["cat"], ["dog"], ["cat", "dog"], [], ["cow", "cat"], ["cow"]]
NAMES = ["cat", "cow", "dog"]
EXPECTED = [[1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]]
BITS = [[int(name in labels) for name in NAMES] for labels in SETS]


@pytest.fixture(scope="module")
def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (9, 99, 200)).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path, png: bytes) -> Path:
    for number in range(len(SETS)):
        (tmp_path / f"{number}.png").write_bytes(png)
    return tmp_path


def load(dataset: Path, **settings: Any) -> ImageDataset:
    return build_dataset(DataArguments(dataset=str(dataset), **{"validation_fraction": 0, **settings}), seed=0)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def check(data: ImageDataset, names: list[str] = NAMES) -> None:
    assert data.task is SEVERAL_LABELS and data.label_names == names
    labels = label_array(data.splits["train"])
    assert labels.dtype == bool and labels.astype(int).tolist() == EXPECTED
    assert "Images of train have 0 to 2 labels, 1.17 on average; 1 have none." in data.notes


def test_a_column_of_lists(folder: Path) -> None:
    rows = [{"image": f"{number}.png", "tags": labels} for number, labels in enumerate(SETS)]
    check(load(write_lines(folder / "table.jsonl", rows)))


def test_texts_with_a_separator(folder: Path) -> None:
    lines = [f"{number}.png,{' | '.join(labels)}" for number, labels in enumerate(SETS)]
    (folder / "table.csv").write_text("\n".join(["image,label", *lines]))
    check(load(folder / "table.csv", label_separator="|"))


def test_columns_of_zero_and_one(folder: Path) -> None:
    lines = [",".join([f"{number}.png", *map(str, bits)]) for number, bits in enumerate(BITS)]
    (folder / "table.csv").write_text("\n".join([f"image,{','.join(NAMES)}", *lines]))
    check(load(folder / "table.csv"))
    ages = [f"{line},{number}" for number, line in enumerate(lines)]
    (folder / "more.csv").write_text("\n".join([f"image,{','.join(NAMES)},age", *ages]))
    with pytest.raises(UserError, match="4 columns could hold the labels: .*--label_column cat or another"):
        load(folder / "more.csv")
    check(load(folder / "more.csv", label_column=NAMES))
    with pytest.raises(UserError, match="column age of split train is one of several label columns, and holds other"):
        load(folder / "more.csv", label_column=["cat", "age"])


@pytest.mark.parametrize("kind", [pa.int64(), pa.bool_(), pa.float32()])
def test_lists_of_zero_and_one(folder: Path, png: bytes, kind: pa.DataType) -> None:
    vectors = pa.array([[kind.to_pandas_dtype()(bit) for bit in bits] for bits in BITS], pa.list_(kind))
    pq.write_table(pa.table({"image": [png] * len(SETS), "label": vectors}), folder / "table.parquet")
    check(load(folder / "table.parquet"), ["0", "1", "2"])


def test_lists_of_class_ids_of_the_hub(png: bytes) -> None:
    features = Features({"image": Image(), "label": Sequence(ClassLabel(names=NAMES)), "box": Sequence(Value("int64"))})
    ids = [[NAMES.index(name) for name in labels] for labels in SETS]
    rows = {"image": [{"bytes": png, "path": None}] * len(SETS), "label": ids, "box": [[0, 0, 4, 4]] * len(SETS)}
    data = build_dataset(DataArguments(validation_fraction=0), 0, dataset=_read(Dataset.from_dict(rows, features)))
    check(data)


def _read(dataset: Any) -> Any:
    from hf_finetune.data.sources.in_memory import read_objects

    return read_objects(dataset)


class Pairs(torch.utils.data.Dataset):
    """A torch dataset of images and labels of some form."""

    def __init__(self, labels: list[Any]) -> None:
        self.labels, self.classes = labels, NAMES

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[PIL.Image.Image, Any]:
        return PIL.Image.new("RGB", (4, 4)), self.labels[row]


@pytest.mark.parametrize(
    "labels",
    [[torch.tensor(bits).float() for bits in BITS], SETS, [[NAMES.index(name) for name in labels] for labels in SETS]],
    ids=["vectors", "names", "ids"],
)
def test_a_torch_dataset(labels: list[Any]) -> None:
    check(build_dataset(DataArguments(validation_fraction=0), 0, dataset=_read(Pairs(labels))))


def test_a_folder_with_metadata(folder: Path) -> None:
    rows = [{"file_name": f"{number}.png", "labels": labels} for number, labels in enumerate(SETS)]
    write_lines(folder / "metadata.jsonl", rows)
    check(load(folder))


def test_another_split_is_mapped_by_name(folder: Path) -> None:
    train = [{"image": f"{number}.png", "labels": labels} for number, labels in enumerate(SETS)]
    write_lines(folder / "train.jsonl", train)
    write_lines(folder / "test.jsonl", [{"image": "0.png", "labels": ["dog", "cow"]}, {"image": "1.png", "labels": []}])
    data = load(folder)
    assert label_array(data.splits["test"]).astype(int).tolist() == [[0, 1, 1], [0, 0, 0]]
    assert "test has no image of 1 of 3 classes: cat." in data.notes
    write_lines(folder / "test.jsonl", [{"image": "0.png", "labels": ["fox"]}, {"image": "1.png", "labels": []}])
    with pytest.raises(UserError, match="split test has a label that split train does not have: fox"):
        load(folder)
    write_lines(folder / "test.jsonl", [{"image": "0.png", "labels": []}, {"image": "1.png", "labels": []}])
    assert "Split test is not used as test: it has no labels (no image has one)." in load(folder).notes


def test_validation_is_held_out_by_iterative_stratification(folder: Path) -> None:
    rows = [{"image": f"{number % 6}.png", "labels": labels} for number, labels in enumerate(SETS * 10)]
    data = load(write_lines(folder / "table.jsonl", rows), validation_fraction=0.2)
    labels = label_array(data.splits["validation"])
    assert labels.sum(axis=0).tolist() == [6, 4, 4] and len(labels) == 12


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([["a"], None, ["b"]], {}, r"1 of 3 rows of split train have nothing in column labels, the first is row 1"),
        ([["a"], ["a", None], ["b"]], {}, r"a list in column labels of split train holds nothing \(null\) .* in row 1"),
        ([["a"], ["b"], ["a"]], {"label_separator": "|"}, "column labels of split train holds lists; leave it out"),
        ([["a"], ["a"], []], {}, r"split train has 1 class \(a\); a classifier needs two"),
        ([[], [], []], {}, "split train has no labels"),
        ([[1.5, 2.0], [3.0], []], {}, "are not whole numbers"),
    ],
)
def test_mistakes(folder: Path, rows: list[Any], settings: dict[str, Any], message: str) -> None:
    table = write_lines(
        folder / "table.jsonl", [{"image": f"{number}.png", "labels": labels} for number, labels in enumerate(rows)]
    )
    with pytest.raises(UserError, match=message):
        load(table, **settings)


def test_folds_and_groups_have_their_share_of_each_class(folder: Path) -> None:
    rows = [
        {"image": f"{number % 6}.png", "labels": labels, "who": number % 20} for number, labels in enumerate(SETS * 10)
    ]
    table = write_lines(folder / "table.jsonl", rows)
    seen: list[int] = []
    for number in range(1, 6):
        held_out = load(table, fold=f"{number}/5", label_column="labels").splits["validation"]
        assert label_array(held_out).sum(axis=0).tolist() == [6, 4, 4]
        seen += held_out["sample_index"]
    assert sorted(seen) == list(range(60))
    for settings in ({"fold": "2/5"}, {"validation_fraction": 0.2}):
        splits = load(table, group_column="who", **settings).splits
        train, held_out = ({row % 20 for row in splits[role]["sample_index"]} for role in ("train", "validation"))
        assert not train & held_out and len(held_out) == 4
        assert np.abs(label_array(splits["validation"]).sum(axis=0) - [6, 4, 4]).max() <= 3  # groups are of three
    with pytest.raises(UserError, match="There are 31 folds, and no class has more than 30 images; use fewer folds"):
        load(table, fold="1/31", label_column="labels")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": ["a", "b", "a"]}, "label_column names a twice"),
        ({"label_column": ["a", "b"], "label_separator": "|"}, "label_column names several; leave one out"),
        ({"label_separator": "", "label_column": "a"}, "label_separator is empty"),
        ({"label_separator": "|", "streaming": True}, "label_separator divides texts, which a stream does not"),
        (
            {"label_column": ["a", "b"], "streaming": True},
            "label_column names several columns, which a stream does not",
        ),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataArguments(dataset="x.csv", **settings)


def test_batches_and_an_image_that_cannot_be_read(folder: Path, png: bytes) -> None:
    from hf_finetune.data.stages import TrainingStage

    rows = [{"image": f"{number}.png", "labels": labels} for number, labels in enumerate(SETS)]
    data = load(write_lines(folder / "table.jsonl", rows))
    stage = TrainingStage(build_train_transforms([], True), seed=0, shared=False)
    batches = ImageBatches(data.splits["train"], stage, on_unreadable=lambda error, row: None)
    batch = batches.__getitems__([4, 2])
    assert batch["labels"].dtype == torch.float32 and batch["labels"].tolist() == [EXPECTED[4], EXPECTED[2]]
    (folder / "2.png").write_bytes(b"damaged")
    assert batches.__getitems__([4, 2])["labels"].tolist() == [EXPECTED[4], [NOT_COUNTED] * 3]


def test_classes_in_the_order_of_a_model() -> None:
    stage = EvaluationStage(object(), True, class_ids=[2, -1, 0], num_labels=4)  # type: ignore[arg-type]
    labels = stage._of_model(torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    assert labels.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]


def test_a_fingerprint_notices_another_label(folder: Path) -> None:
    rows = [{"image": f"{number}.png", "labels": labels} for number, labels in enumerate(SETS)]
    before = fingerprint_of(load(write_lines(folder / "table.jsonl", rows))).splits["train"].labels
    rows[2]["labels"] = ["cat", "cow"]
    after = fingerprint_of(load(write_lines(folder / "table.jsonl", rows))).splits["train"].labels
    assert np.flatnonzero(before != after).tolist() == [2]
