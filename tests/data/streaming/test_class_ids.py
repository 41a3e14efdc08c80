"""Labels of streams: of any type, matched by value, and named where they are none of the classes."""

from __future__ import annotations

import pyarrow as pa
import pytest
from datasets import ClassLabel, Value

from hf_finetune.data.streaming.class_ids import ClassIds, plain_values
from hf_finetune.errors import UserError

NAMES = pa.array(["a", "b", "c"])


def ids(labels: pa.Array, known: pa.Array = NAMES, feature: object = Value("string")) -> list[int]:
    return ClassIds("pets", "test", feature, known, "train")(labels, range(10, 10 + len(labels)))


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["c", "a"]),
        pa.array(["c", "a"], pa.large_string()),
        pa.array(["c", "a"]).dictionary_encode(),
    ],
)
def test_names(labels) -> None:
    assert ids(labels) == [2, 0]


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint16(), pa.float64(), pa.string()])
def test_numbers(kind) -> None:
    """A split whose numbers are stored as text, or as floats, has the same classes."""
    labels = pa.array(["40", "3"]) if kind == pa.string() else pa.array([40, 3]).cast(kind)
    assert ids(labels, known=pa.array([3, 7, 40])) == [2, 0]


def test_the_order_of_another_split_s_classes_does_not_matter() -> None:
    feature = ClassLabel(names=["c", "a", "z"])
    assert ids(pa.array([0, 1]), feature=feature) == [2, 0]
    with pytest.raises(UserError, match="row 11 of split test .* has the label 2, which is none of the 3 classes"):
        ids(pa.array([0, 2]), feature=feature)


@pytest.mark.parametrize("label", [None, -1, 3])
def test_labels_outside_a_class_label_are_refused(label) -> None:
    with pytest.raises(UserError, match=f"row 12 of split test .* has the label {label}, which is none of the 3"):
        ids(pa.array([0, 1, label]), feature=ClassLabel(names=["a", "b", "c"]))


@pytest.mark.parametrize("values", [[0.5, 1.0], [[1], [2]], [{"a": 1}]])
def test_what_is_no_label_is_refused(values) -> None:
    with pytest.raises(UserError, match="a label is one class per image"):
        plain_values("pets", "train", pa.array(values))


@pytest.mark.parametrize("feature", [Value("string"), ClassLabel(names=["a ", "\u00a0c"])])
def test_names_are_tidied_if_asked(feature: object) -> None:
    labels = pa.array([1, 0]) if isinstance(feature, ClassLabel) else pa.array(["c\u00a0", " a"])
    assert ClassIds("pets", "test", feature, NAMES, "train", label_strip=True)(labels, [0, 1]) == [2, 0]
    with pytest.raises(UserError, match="none of the 3 classes"):
        ids(labels, feature=feature)
