"""Class names that look like one class are named, and tidied only if asked."""

from __future__ import annotations

import pytest

from hf_finetune.data.class_names import hint_at_strip, note_similar_names, note_stripped, tidy_name

NFC, NFD = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("name", "tidy"),
    [
        ("dog", "dog"),
        (" dog\t", "dog"),
        ("dog\u00a0", "dog"),
        ("\ufeffdog\u200b", "dog"),
        ("hot  dog", "hot dog"),
        (NFD, NFC),
        ("Dog", "Dog"),
        ("  ", ""),
    ],
)
def test_tidy_names(name: str, tidy: str) -> None:
    assert tidy_name(name) == tidy


@pytest.mark.parametrize(
    ("names", "shown", "strip_helps"),
    [
        (["dog", "cat", "dog "], "'dog' and 'dog '", True),
        (["dog", "dog\u00a0"], r"'dog' and 'dog\xa0'", True),
        ([NFC, NFD], r"'café' and 'cafe\u0301'", True),
        (["dog", "Dog", "DOG"], "'dog' and 'Dog' and 'DOG'", False),
        (["01", "1", "2"], "'01' and '1'", False),
        (["1e3", "1000"], "'1e3' and '1000'", False),
        (["1.0", "1", "+1"], "'1.0' and '1' and '+1'", False),
    ],
)
def test_similar_names_are_named(names: list[str], shown: str, strip_helps: bool) -> None:
    (note,) = note_similar_names(names)
    assert note.startswith("Class names differ only by blanks, case or the writing of a number")
    assert f": {shown}; if they are one class" in note
    assert ("--label_strip" in note) is strip_helps


def test_names_with_blanks_around_all_of_them() -> None:
    assert note_similar_names([" cat", " dog"]) == [
        "Class names have blanks around them or odd characters: ' cat', ' dog'; --label_strip removes these."
    ]


@pytest.mark.parametrize(
    "names", [["cat", "dog"], ["1", "10", "100"], ["hot dog", "hotdog"], ["1.5", "15"], ["-1", "1"]]
)
def test_ordinary_names_need_no_note(names: list[str]) -> None:
    assert note_similar_names(names) == []


def test_what_was_tidied_is_said() -> None:
    (note,) = note_stripped(["dog", "dog ", "cat"], ["cat", "dog"])
    assert note == "label_strip changed 1 class names ('dog '); 2 classes are left."
    assert note_stripped(["cat", "dog"], ["cat", "dog"]) == []


def test_a_hint_where_only_blanks_are_in_the_way() -> None:
    assert "'dog ' differs from a known name only by blanks; use --label_strip" in hint_at_strip(["dog "], ["dog"])
    assert hint_at_strip(["cow"], ["dog"]) == ""
