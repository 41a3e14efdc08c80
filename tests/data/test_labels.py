"""Labels of every kind become class ids, and impossible ones are named."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value, concatenate_datasets

from hf_finetune.data.labels import (
    UNLABELLED,
    Labels,
    map_labels,
    match_by_index,
    match_classes,
    missing_classes,
)
from hf_finetune.data.sources.raw import RawDataset
from hf_finetune.errors import UserError


def labels_of(splits: Mapping[str, object], features: Mapping[str, object] | None = None) -> Labels:
    """Maps {split: labels}; `features` gives a split's label feature, where it is not to be inferred."""
    features = features or {}
    raw = RawDataset(
        {
            split: Dataset.from_dict(
                {"label": labels}, features=Features({"label": features[split]}) if split in features else None
            )
            for split, labels in splits.items()
        },
        source="pets",
    )
    return map_labels(raw, dict.fromkeys(splits, "label"), "train")


def ids(labels: Labels) -> dict[str, list[int]]:
    assert all(values.dtype == np.int32 for values in labels.ids.values())
    return {split: values.tolist() for split, values in labels.ids.items()}


def test_strings_are_sorted() -> None:
    labels = labels_of({"train": ["dog", "cat", "dog", "ant"], "test": ["cat", "dog"]})
    assert labels.names == ["ant", "cat", "dog"]
    assert ids(labels) == {"train": [2, 1, 2, 0], "test": [1, 2]}
    assert labels.notes == []


def test_arbitrary_integers_are_sorted_as_numbers() -> None:
    labels = labels_of({"train": [100, 9, 1000, -7], "test": [9, 100]})
    assert labels.names == ["-7", "9", "100", "1000"]
    assert ids(labels) == {"train": [2, 1, 3, 0], "test": [1, 2]}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pa.array([3.0, 1.0, 3.0]), ["1", "3"]),
        (pa.array([True, False, True]), ["false", "true"]),
        (pa.array([3, 1, 3], pa.uint8()), ["1", "3"]),
        (pa.array(["b", "a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([10, 9, 10], pa.int8()), ["9", "10"]),
    ],
)
def test_other_kinds_of_columns(values: pa.Array, names: list[str]) -> None:
    labels = labels_of({"train": values})
    assert (labels.names, ids(labels)) == (names, {"train": [1, 0, 1]})


def test_class_labels_keep_their_order_and_unused_names() -> None:
    feature = ClassLabel(names=["dog", "cat", "cow"])
    labels = labels_of({"train": [1, 0, 1]}, {"train": feature})
    assert labels.names == ["dog", "cat", "cow"]
    assert ids(labels) == {"train": [1, 0, 1]}
    assert labels.notes == ["1 of 3 classes have no image in train: cow."]


def test_class_labels_in_another_order_are_mapped_by_name() -> None:
    labels = labels_of(
        {"train": [0, 1, 2], "validation": [0, 1, 0], "test": ["bee", "ant"]},
        {"train": ClassLabel(names=["ant", "bee", "cat"]), "validation": ClassLabel(names=["cat", "ant", "yak"])},
    )
    assert ids(labels) == {"train": [0, 1, 2], "validation": [2, 0, 2], "test": [1, 0]}


def test_label_that_train_has_not() -> None:
    with pytest.raises(UserError, match=r"^pets: split test has a label that split train does not have: cow;"):
        labels_of({"train": ["cat", "dog"], "test": ["cat", "cow", "cow"]})
    with pytest.raises(UserError, match=r"split validation has 2 labels that split train does not have: 7, 8;"):
        labels_of({"train": [1, 2], "validation": [8, 1, 7]})
    with pytest.raises(UserError, match=r"split test has a label that split train does not have: yak;"):
        labels_of(
            {"train": [0, 1], "test": [1]},
            {"train": ClassLabel(names=["ant", "bee"]), "test": ClassLabel(names=["ant", "yak"])},
        )


def test_names_here_and_integers_there() -> None:
    with pytest.raises(UserError, match=r"the labels are names in split train, but integers in split test"):
        labels_of({"train": ["cat", "dog"], "test": [0, 1]})


@pytest.mark.parametrize("hidden", [[-1, -1], [None, None]])
def test_hidden_labels_are_reported(hidden: list) -> None:
    labels = labels_of({"train": [0, 1, 1], "test": hidden}, {"test": Value("int64")})
    assert labels.unlabelled == {"test": f"has no labels (all are {hidden[0]})"}
    assert list(labels.ids) == ["train"]
    with pytest.raises(UserError, match=r"split train has no labels .*nothing can be learned"):
        labels_of({"train": hidden}, {"train": Value("int64")})


def test_split_without_label_column() -> None:
    raw = RawDataset({"train": Dataset.from_dict({"label": [0, 1]}), "test": Dataset.from_dict({"x": [0]})}, "pets")
    labels = map_labels(raw, {"train": "label", "test": None}, "train")
    assert labels.unlabelled == {"test": "has no label column"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, -1, 1, -1], r"2 of 5 labels of split train are missing \(empty or -1\), the first in row 2"),
        ([0, 1, None, 1], r"1 of 4 labels of split train are missing \(empty or -1\), the first in row 2"),
        (["cat", "", None, "dog"], r"2 of 4 labels of split train are missing \(empty\), the first in row 1"),
    ],
)
def test_some_labels_missing(values: list, message: str) -> None:
    with pytest.raises(UserError, match=rf"^pets: {message} \(counted from 0\); label these images or remove them\.$"):
        labels_of({"train": values})


def test_some_labels_missing_in_test() -> None:
    with pytest.raises(UserError, match="1 of 2 labels of split test are missing"):
        labels_of({"train": [0, 1], "test": [0, -1]})


def test_labels_outside_the_range() -> None:
    feature = ClassLabel(names=["cat", "dog"])
    raw = RawDataset({"train": Dataset.from_dict({"label": [0, 1, 2, 3]}).cast_column("label", Value("int64"))}, "pets")
    raw.splits["train"].info.features["label"] = feature
    with pytest.raises(UserError, match=r"2 of 4 labels of split train are outside the range 0 to 1.*first in row 2"):
        map_labels(raw, {"train": "label"}, "train")


def test_columns_that_are_no_labels() -> None:
    with pytest.raises(UserError, match="not whole numbers"):
        labels_of({"train": [0.5, 1.0]})
    with pytest.raises(UserError, match="one class per image"):
        labels_of({"train": [[0, 1], [1]]})


def test_fewer_than_two_classes() -> None:
    with pytest.raises(UserError, match=r"split train has 1 class \(cat\); a classifier needs two at least"):
        labels_of({"train": ["cat", "cat"]})


def test_missing_classes() -> None:
    assert missing_classes(np.array([0, 2, 2]), ["ant", "bee", "cat", "dog"]) == ["bee", "dog"]


def test_an_empty_split_has_no_ids_and_is_not_unlabelled() -> None:
    labels = labels_of({"train": [1, 0], "test": []}, {"test": Value("int64")})
    assert ids(labels) == {"train": [1, 0], "test": []}
    assert labels.unlabelled == {}


def test_another_split_can_be_the_reference() -> None:
    raw = RawDataset(
        {"val": Dataset.from_dict({"label": ["b", "a"]}), "test": Dataset.from_dict({"label": ["a"]})}, source="pets"
    )
    labels = map_labels(raw, {"test": "label", "val": "label"}, "val")
    assert (labels.names, ids(labels)) == (["a", "b"], {"test": [0], "val": [1, 0]})
    with pytest.raises(UserError, match=r"split test has 1 class \(a\)"):
        map_labels(raw, {"test": "label", "val": "label"}, "test")


def test_labels_in_several_pieces() -> None:
    feature = Features({"label": ClassLabel(names=["cat", "dog"])})
    pieces = [Dataset.from_dict({"label": piece}, features=feature) for piece in ([1, 0], [0, 1, 1])]
    raw = RawDataset({"train": concatenate_datasets(pieces)}, source="pets")
    assert ids(map_labels(raw, {"train": "label"}, "train")) == {"train": [1, 0, 0, 1, 1]}


@pytest.mark.parametrize(("label", "row"), [(-2, 1), (3, 1), (7, 1)])
def test_first_label_outside_the_range(label: int, row: int) -> None:
    raw = RawDataset(
        {"train": Dataset.from_dict({"label": [0, label, 2]}).cast_column("label", Value("int64"))}, "pets"
    )
    raw.splits["train"].info.features["label"] = ClassLabel(names=["cat", "dog", "cow"])
    message = rf"1 of 3 labels of split train are outside the range 0 to 2 of its 3 classes, the first in row {row} "
    message += r"\(counted from 0\); fix them\.$"
    with pytest.raises(UserError, match=message):
        map_labels(raw, {"train": "label"}, "train")


def test_notes_of_classes_without_images_count_them() -> None:
    labels = labels_of({"train": [0, 2]}, {"train": ClassLabel(names=["ant", "bee", "cat", "dog"])})
    assert labels.notes == ["2 of 4 classes have no image in train: bee, dog."]


def test_some_floats_missing() -> None:
    with pytest.raises(
        UserError, match=r"1 of 3 labels of split train are missing \(empty or -1\), the first in row 1"
    ):
        labels_of({"train": [1.0, None, 2.0]})


def test_match_classes_by_name() -> None:
    dataset = Dataset.from_dict({"label": [2, 0, 2]})
    assert match_classes(dataset, ["cat", "dog", "cow"], ["cow", "ant", "cat"]) == [2, UNLABELLED, 0]
    assert match_classes(None, ["cat", "dog"], ["ant", "dog", "cat"]) == [2, 1]


@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1]])
def test_match_classes_refuses_classes_that_the_model_lacks(rows: list[int]) -> None:
    dataset = Dataset.from_dict({"label": rows})
    message = r"^The model does not know 1 of the dataset's classes: dog\. It knows cow, cat\.$"
    with pytest.raises(UserError, match=message):
        match_classes(dataset, ["cat", "dog", "cow"], ["cow", "cat"])
    with pytest.raises(UserError, match=r"does not know 2 of the dataset's classes: dog, cow\."):
        match_classes(None, ["cat", "dog", "cow"], ["cat"])


def test_integers_of_one_split_are_the_texts_of_another() -> None:
    labels = labels_of({"train": ["01", "1", "2"], "test": [2, 1]})
    assert ids(labels) == {"train": [0, 1, 2], "test": [2, 1]}
    with pytest.raises(UserError, match="split test has a label that split train does not have: 01;"):
        labels_of({"train": [1, 2], "test": ["1", "01"]})


def test_nan_is_a_missing_label() -> None:
    with pytest.raises(UserError, match="1 of 3 labels of split train are missing"):
        labels_of({"train": pa.array([1.0, float("nan"), 2.0])})


def test_a_label_of_blanks_is_missing() -> None:
    with pytest.raises(UserError, match="1 of 3 labels of split train are missing"):
        labels_of({"train": ["cat", " ", "dog"]})


def test_floats_that_cannot_hold_each_integer_are_refused() -> None:
    with pytest.raises(UserError, match=r"column label\) are floats too large .*save them as text"):
        labels_of({"train": [2.0**53, 1.0]})


@pytest.mark.parametrize("named", [False, True])
def test_names_that_differ_by_blanks_are_joined_only_if_asked(named: bool) -> None:
    splits = {"train": ["cat", "dog", "dog ", "cat\u00a0"], "test": [" dog", "cat"]}
    raw = RawDataset({split: Dataset.from_dict({"label": names}) for split, names in splits.items()}, "pets")
    if named:
        for split, names in splits.items():
            raw.splits[split] = raw.splits[split].cast_column("label", ClassLabel(names=names))
    with pytest.raises(UserError, match="' dog' differs from a known name only by blanks; use --label_strip"):
        map_labels(raw, dict.fromkeys(splits, "label"), "train")
    labels = map_labels(raw, dict.fromkeys(splits, "label"), "train", label_strip=True)
    assert (labels.names, ids(labels)) == (["cat", "dog"], {"train": [0, 1, 1, 0], "test": [1, 0]})
    assert labels.notes == [r"label_strip changed 2 class names ('cat\xa0', 'dog '); 2 classes are left."]
    del raw.splits["test"]
    (note,) = map_labels(raw, {"train": "label"}, "train").notes
    assert "differ only by blanks" in note and "'dog' and 'dog '" in note


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1"], ["0", "1"], ["None", "None"]])
def test_a_model_without_class_names_is_matched_by_index_only(names: list[str]) -> None:
    message = r"classes have no names \(.*\) that could be matched with the dataset's \(cat, dog\); .*--labels_by_index"
    with pytest.raises(UserError, match=message):
        match_classes(None, ["cat", "dog"], names)
    assert match_by_index(["cat", "dog"], names) == [0, 1]


def test_integer_labels_keep_their_value_by_index() -> None:
    assert match_by_index(["0", "2"], ["LABEL_0", "LABEL_1", "LABEL_2"]) == [0, 2]
    assert match_by_index(["1", "2", "3"], ["LABEL_0", "LABEL_1", "LABEL_2"]) == [0, 1, 2]
    with pytest.raises(UserError, match="labels_by_index: the dataset has 3 classes and the model 2"):
        match_by_index(["a", "b", "c"], ["LABEL_0", "LABEL_1"])


def test_one_name_for_two_classes_of_the_model() -> None:
    names = ["crane", "cat", "crane"]
    message = r"The model has 2 classes of the name crane \(0, 2\), .*--labels_by_index"
    with pytest.raises(UserError, match=message):
        match_classes(None, ["cat", "crane"], names)
    assert match_classes(None, ["cat"], names) == [1]
    assert match_classes(Dataset.from_dict({"label": [0, 0]}), ["cat", "crane"], names)[0] == 1
