"""`hf-finetune check` on a folder with a fault of each kind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from hf_finetune import check_dataset
from hf_finetune.checks import scan
from hf_finetune.checks.finding import Finding, Severity
from hf_finetune.checks.scan import scan_images
from hf_finetune.cli.main import main
from hf_finetune.jobs import check
from hf_finetune.jobs.check_result import CheckResult


def blots(number: int, side: int = 24) -> PIL.Image.Image:
    """An image of random blots, another for each number."""
    coarse = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)


def write_clean(folder: Path) -> Path:
    """Write 120 images of train and 40 of test, of two classes."""
    for split, count, first in (("train", 60, 0), ("test", 20, 1_000)):
        for place, label in enumerate(("cat", "dog")):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                blots(first + 500 * place + number).save(folder / split / label / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clean(tmp_path_factory.mktemp("clean") / "images")


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with faults."""
    folder = write_clean(tmp_path_factory.mktemp("faulty") / "images")
    train, test = folder / "train", folder / "test"
    shutil.copy(train / "cat" / "001.png", test / "cat" / "copy.png")
    blots(2).resize((36, 36)).save(test / "cat" / "near.jpg", quality=60)
    shutil.copy(train / "cat" / "003.png", train / "dog" / "contradiction.png")
    shutil.copy(train / "dog" / "004.png", train / "dog" / "again.png")
    PIL.Image.new("RGB", (24, 24), "black").save(train / "cat" / "black.png")
    (train / "cat" / "text.png").write_text("not an image")
    content = (train / "dog" / "005.png").read_bytes()
    middle = len(content) // 2
    (train / "dog" / "broken.png").write_bytes(content[:middle] + bytes(8) + content[middle + 8 :])
    for split, label, letter in (("train", "cat", "a"), ("train", "dog", "b"), ("test", "dog", "c")):
        blots(5_000 + ord(letter)).save(folder / split / label / f"patient12_{letter}.png")
    blots(6_000).convert("L").save(train / "cat" / "grey.png")
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    blots(6_001).save(train / "cat" / "turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def result(faulty: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckResult:
    return check_dataset(faulty, quick=True, output=tmp_path_factory.mktemp("page") / "page.html")


def found(result: CheckResult, name: str) -> Finding:
    (finding,) = (finding for finding in result.findings if finding.check == name)
    return finding


def names(finding: Finding) -> list[list[str]]:
    return [[image.name for image in group.images] for group in finding.groups]


def test_nothing_is_found_in_clean_images(clean):
    result = check_dataset(clean, quick=True)
    assert result.findings == [] and not result.falsified
    assert result.verdict == "You can train: nothing was found that makes the figures wrong."
    assert result.splits["train"].classes == {"cat": 60, "dog": 60} and result.images.width == (24, 24, 24)


def test_the_same_image_in_two_splits(result):
    exact = found(result, "duplicates_across_splits")
    assert names(exact) == [["train/cat/001.png", "test/cat/copy.png"]] and exact.severity is Severity.FALSIFIES
    assert exact.text.startswith("The same image is in two splits: 1 image of train is also in test (train/cat/001.png")
    near = found(result, "near_duplicates_across_splits")
    assert names(near) == [["train/cat/002.png", "test/cat/near.jpg"]] and near.severity is Severity.FALSIFIES


def test_the_same_image_in_one_split(result):
    finding = found(result, "duplicates_within_a_split")
    assert names(finding) == [
        ["train/cat/003.png", "train/dog/contradiction.png"],
        ["train/dog/004.png", "train/dog/again.png"],
    ]
    assert "2 images of train more than once (2 the same)" in finding.text and finding.severity is Severity.NOTE


def test_two_labels_of_one_image(result):
    finding = found(result, "contradictory_labels")
    assert names(finding) == [["train/cat/003.png", "train/dog/contradiction.png"]]
    assert [image.label for image in finding.groups[0].images] == ["cat", "dog"]


def test_unreadable_images_by_header_and_by_pixels(result):
    finding = found(result, "unreadable")
    assert [group.text.partition(" ")[0] for group in finding.groups] == ["train/cat/text.png", "train/dog/broken.png"]
    assert result.splits["train"].unreadable == 2


def test_blank_grey_and_turned_images(result):
    assert names(found(result, "blank")) == [["train/cat/black.png"]]
    assert names(found(result, "rare_modes")) == [["train/cat/grey.png"]]
    assert names(found(result, "turned")) == [["train/cat/turned.jpg"]]
    assert "test/cat/near.jpg is 36 x 36" in found(result, "rare_sizes").text


def test_a_group_by_its_name(result):
    assert sorted(names(found(result, "groups_across_splits"))[0]) == [
        "test/dog/patient12_c.png",
        "train/cat/patient12_a.png",
        "train/dog/patient12_b.png",
    ]


def test_the_command_prints_text_or_json_and_its_exit_code(faulty, clean, tmp_path, capsys):
    capsys.readouterr()
    assert main(["check", str(faulty), "--quick", "--json", "--output", str(tmp_path / "page.html")]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["falsified"] and document["findings"][0]["check"] == "duplicates_across_splits"
    assert document["findings"][0]["groups"][0]["images"][0]["name"] == "train/cat/001.png"
    page = (tmp_path / "page.html").read_text()
    assert "patient12_a.png" in page and page.count("data:image/jpeg") > 10
    assert main(["check", str(clean), "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "train 120, test 40 images of 2 classes; 24 wide and 24 high" in printed


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["{}/nothing"], "there is no file or folder"),
        (["{}", "--split", "tset"], '--split: {} has no split tset. Did you mean "test"?'),
        (["{}", "--output", "page.pdf"], "--output is page.pdf; use a name that ends in .html"),
        (["{}", "--streaming"], "which are not streamed; leave --streaming out"),
        (["{}", "--model", "no_such_model_here"], "no_such_model_here"),
    ],
)
def test_mistakes(words, line, clean, capsys):
    capsys.readouterr()
    assert main(["check", *(word.format(clean) for word in words)]) == 2
    assert line.format(clean) in capsys.readouterr().err


def test_only_some_splits(clean):
    assert list(check_dataset(clean, split="test", quick=True).splits) == ["test"]


def test_groups_of_a_column(clean, tmp_path):
    rows = ["file_name,split,label,patient"]
    for split, label, number, patient in (("train", "cat", 0, 1), ("train", "dog", 1, 2), ("test", "cat", 2, 1)):
        rows.append(f"{clean}/train/{label}/{number:03d}.png,{split},{label},p{patient}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    result = check_dataset(tmp_path / "table.csv", group_column="patient", label_column="label", quick=True)
    finding = found(result, "groups_across_splits")
    assert finding.text.startswith("1 of 1 groups (patient) of test are in train too") and result.falsified


def test_labels_are_judged_by_the_features_of_the_embedded_checkpoint(image_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_LEAST_IMAGES", 50)
    folder = tmp_path / "images"
    shutil.copytree(image_folder, folder)
    (folder / "train" / "red" / "03.png").rename(folder / "train" / "blue" / "was_red.png")
    finding = found(check_dataset(folder), "label_suspects")
    assert names(finding) == [["train/blue/was_red.png"]] and finding.groups[0].text.startswith("blue, rather red")
    assert finding.figures["out_of_fold_accuracy"] > 0.95


def test_labels_are_not_judged_by_probes_that_know_nothing(clean):
    finding = found(check_dataset(clean), "label_suspects")
    assert finding.text.startswith("No label is called suspect: 5 linear probes of resnet_small_cifar10")
    assert finding.groups == () and finding.figures["out_of_fold_accuracy"] < 0.8


@pytest.mark.parametrize("least_images", [5, 100])
def test_several_labels_are_not_judged(least_images, clean, tmp_path, monkeypatch):
    monkeypatch.setattr(check, "_LEAST_IMAGES", least_images)
    labels = ["cat|pet" if number % 2 else "cat" for number in range(9)]
    rows = ["file_name,label", *(f"{clean}/train/cat/{row:03d}.png,{label}" for row, label in enumerate(labels))]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    result = check_dataset(tmp_path / "table.csv", label_separator="|")
    assert found(result, "label_suspects").text.startswith("Labels are not judged: images have several")
    assert result.splits["train"].classes == {"cat": 9, "pet": 4}


def test_labels_are_not_judged_where_the_range_of_values_is_not_clear(tmp_path):
    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for number in range(50):
            values = np.random.default_rng(number).normal(0, 50, (8, 8)).astype(np.float32)
            PIL.Image.fromarray(values + ord(label)).save(tmp_path / "train" / label / f"{number}.tif")
    result = check_dataset(tmp_path)
    assert "use --value_range LOW HIGH" in found(result, "value_range").text
    assert found(result, "label_suspects").text.endswith("the range of the images' values is not clear.")


def test_labels_of_one_class_are_not_judged(clean, tmp_path):
    shutil.copytree(clean / "train", tmp_path / "train")
    shutil.copytree(clean / "train" / "cat", tmp_path / "test" / "cat")
    result = check_dataset(tmp_path, split="test")
    assert found(result, "label_suspects").text == "Labels are not judged: images of one class are too few for it."


@pytest.mark.slow
def test_worker_processes_see_the_same(faulty, monkeypatch):
    from hf_finetune.config.data import DataArguments
    from hf_finetune.data.build import load_image_dataset

    arguments = DataArguments(dataset=str(faulty), validation_fraction=0, on_bad_image="skip")
    split = load_image_dataset(arguments, 0).splits["train"]
    alone = scan_images(split, 2, None, "")
    monkeypatch.setattr(scan, "_WORTH_WORKERS", 1)
    monkeypatch.setattr(scan, "_PIECE", 50)
    together = scan_images(split, 2, None, "")
    assert (alone.looks == together.looks).all() and list(alone.errors) == list(together.errors)
