"""Images that turn unreadable in the middle of a run: named, or left out without a trace in anything else."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from hf_finetune import finetune
from hf_finetune.cli.main import main
from hf_finetune.config.data import DataArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.collate import pass_on
from hf_finetune.data.dataset import ImageDataset
from hf_finetune.data.images.cache import open_decoded_images
from hf_finetune.data.images.unreadable import BadImages
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.transforms.build import build_train_transforms
from hf_finetune.errors import LoadingError, UserError
from hf_finetune.training.loader_errors import loader_errors_in_one_line
from hf_finetune.training.trainer import ImageClassificationTrainer
from tests.helpers.damage import spoil_pixels, write_bomb
from tests.helpers.tiny import write_recipe
from tests.helpers.trainers import PROCESSOR

LOST = "train/green/07.png"


DAMAGES = {
    "vanished": Path.unlink,
    "text": lambda path: path.write_text("no image"),
    "empty": lambda path: path.write_bytes(b""),
    "spoilt": spoil_pixels,
    "resized": lambda path: PIL.Image.new("RGB", (9, 11)).save(path),
    "bomb": write_bomb,
}


@pytest.fixture
def images(image_folder: Path, tmp_path: Path) -> Path:
    """A copy of the coloured images, to be damaged."""
    return Path(shutil.copytree(image_folder, tmp_path / "images"))


def load(folder: Path, **settings: object) -> ImageDataset:
    return load_image_dataset(DataArguments(dataset=str(folder), validation_fraction=0, **settings), seed=0)


def row_of(data: ImageDataset, name: str) -> int:
    paths = [image["path"] for image in data.splits["train"]["image"]]
    return next(row for row, path in enumerate(paths) if path.endswith(name))


# ---- batches ----


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("way", ["training", "evaluation", "decoded"])
def test_the_next_image_replaces_it_and_does_not_count(images, datasets_cache, way, damage, workers):
    data = load(images)
    lost = row_of(data, LOST)
    stage = TrainingStage(build_train_transforms(["RandomHorizontalFlip", "RandAugment"], uniform=True), seed=0)
    if way == "evaluation":
        stage = EvaluationStage(PROCESSOR, uniform=True)
    decoded = open_decoded_images(data, "always")["train"] if way == "decoded" else None
    rows = [3, 50, lost, 12, 1], [lost, 7], [9, lost]  # in the middle, first and last
    sound = ImageBatches(data.splits["train"], stage)
    expected = []
    for batch, replaced in zip(rows, ([3, 50, 12, 12, 1], [7, 7], [9, 9]), strict=True):
        reference = sound.__getitems__(replaced)
        reference["labels"][batch.index(lost)] = -100
        expected.append(reference)

    bad_images = BadImages(data, "skip")
    batches = bad_images.on_error("train", ImageBatches(data.splits["train"], stage, decoded))
    batches.__getitems__([3, 12])  # what a run does first of all
    DAMAGES[damage](images / LOST)
    loader = DataLoader(batches, batch_sampler=rows, collate_fn=pass_on, num_workers=workers)
    for batch, reference in zip(loader, expected, strict=True):
        assert batch.keys() == reference.keys()
        for key, value in reference.items():
            assert torch.equal(batch[key], value), key
    (found,) = bad_images.found()
    assert found.startswith(f"{LOST} (")


def test_the_list_is_no_file_until_an_image_is_on_it(images, tmp_path, monkeypatch):
    """So that processes that are killed leave none behind."""
    data = load(images)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    bad_images = BadImages(data, "skip")
    batches = bad_images.on_error("train", ImageBatches(data.splits["train"], EvaluationStage(PROCESSOR, uniform=True)))
    batches.__getitems__([0, 1])
    assert not list(temporary.iterdir()) and not bad_images.found()
    spoil_pixels(images / LOST)
    batches.__getitems__([0, row_of(data, LOST)])
    assert len(list(temporary.iterdir())) == len(bad_images.found()) == 1
    bad_images.close()
    assert not list(temporary.iterdir())


def test_a_batch_without_a_readable_image_takes_another(images):
    data = load(images)
    for name in ("06", "07"):
        (images / f"train/green/{name}.png").unlink()
    bad_images = BadImages(data, "skip")
    batches = bad_images.on_error("train", ImageBatches(data.splits["train"], EvaluationStage(PROCESSOR, uniform=True)))
    lost = row_of(data, "train/green/06.png")
    assert row_of(data, LOST) == lost + 1
    batch = batches.__getitems__([lost, lost + 1])
    stand_in = batches.__getitems__([lost + 2])["pixel_values"][0]
    assert batch["labels"].tolist() == [-100, -100]
    assert torch.equal(batch["pixel_values"], stand_in.expand(2, -1, -1, -1))
    shutil.rmtree(images)
    with pytest.raises(UserError, match="No image of a split can be read any more"):
        batches.__getitems__([0, 1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", DAMAGES)
def test_an_unreadable_image_stops_with_its_name(images, damage, workers):
    data = load(images)
    batches = ImageBatches(data.splits["train"], EvaluationStage(PROCESSOR, uniform=True))
    batches = BadImages(data, "stop").on_error("train", batches)
    batches.__getitems__([0, 1])
    DAMAGES[damage](images / LOST)
    loader = iter(DataLoader(batches, batch_size=16, collate_fn=pass_on, num_workers=workers))
    with pytest.raises(LoadingError) as caught, loader_errors_in_one_line():
        list(loader)
    if workers:
        loader._shutdown_workers()  # or the garbage collector waits five seconds for each
    message = str(caught.value)
    assert message.startswith(f"An image of train cannot be read: {LOST} (") and "\n" not in message
    assert message.endswith("; fix it, or use --on_bad_image skip.")


def test_images_inside_a_table_are_named_by_their_row(tmp_path):
    import pandas

    generator = np.random.default_rng(0)
    path = tmp_path / "one.png"
    contents = []
    for number in range(8):
        PIL.Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        if number == 5:
            spoil_pixels(path)
        contents.append({"bytes": path.read_bytes(), "path": None})
    pandas.DataFrame({"image": contents, "label": list("abababab")}).to_parquet(tmp_path / "table.parquet")
    data = load(tmp_path / "table.parquet")
    bad_images = BadImages(data, "skip")
    batches = bad_images.on_error("train", ImageBatches(data.splits["train"], EvaluationStage(PROCESSOR, uniform=True)))
    assert batches.__getitems__(range(8))["labels"].tolist() == [0, 1, 0, 1, 0, -100, 0, 1]
    assert bad_images.found()[0].startswith("row 5 of train (")
    assert bad_images.name("train", 5) == "row 5 of train"


# ---- runs ----


class Cut(Exception):
    """Ends a run as a power cut would."""


def at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int, action: Callable[[], object]) -> None:
    original = ImageClassificationTrainer.set_epoch

    def patched(self: ImageClassificationTrainer, begun: int) -> None:
        original(self, begun)
        if begun == epoch:
            action()

    monkeypatch.setattr(ImageClassificationTrainer, "set_epoch", patched)


def cut() -> None:
    raise Cut


def words(folder: Path, images: Path, **settings: object) -> list[str]:
    recipe = str(
        write_recipe(
            folder,
            decode_cache="never",
            load_best_model_at_end=False,
            dataset=str(images),
            validation_fraction=0.2,
            **settings,
        )
    )
    return ["train", "--recipe", recipe]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_is_that_in_which_the_image_had_no_label(images, tmp_path, monkeypatch, capsys, accumulation):
    """The exact reference: all files sound, but from epoch 1 on the lost one's row is another's under -100."""
    settings = words(tmp_path, images, gradient_accumulation_steps=accumulation)
    outputs = {name: tmp_path / name for name in ("reference", "skip")}
    with monkeypatch.context() as patch:
        begun: list[int] = []
        for epoch in (1, 2):
            at_epoch(patch, epoch, lambda: begun.append(1))
        read = ImageBatches.__getitems__

        def with_stand_in(self: ImageBatches, rows: list[int]) -> dict[str, torch.Tensor]:
            paths = [self.split.with_format(None)[row]["image"]["path"] for row in rows]
            lost = next((place for place, path in enumerate(paths) if path.endswith(LOST)), None)
            if not begun or lost is None:
                return read(self, rows)
            batch = read(
                self, [rows[(place + 1) % len(rows)] if place == lost else rows[place] for place in range(len(rows))]
            )
            batch["labels"][lost] = -100
            return batch

        patch.setattr(ImageBatches, "__getitems__", with_stand_in)
        assert main([*settings, "--output_dir", str(outputs["reference"])]) == 0
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, (images / LOST).unlink)
        assert main([*settings, "--output_dir", str(outputs["skip"]), "--on_bad_image", "skip"]) == 0
    assert_equal(weights(outputs["reference"]), weights(outputs["skip"]))
    printed = capsys.readouterr()
    lost = f"{LOST} (no such file, row 31 of train)"
    assert f"1 image could not be read when their batch was due and did not count: {lost}" in printed.out
    assert f"hf-finetune: {lost}: it cannot be read and is left out.\n" in printed.err
    metrics = json.loads((outputs["skip"] / "metrics.json").read_text())
    assert metrics["unreadable_images"] == [lost] and metrics["metrics"]["unreadable_images"] == 1
    assert json.loads((outputs["reference"] / "metrics.json").read_text())["metrics"]["unreadable_images"] == 0


@pytest.mark.parametrize("first", ["skip", "stop"])
def test_a_resumed_run_is_the_undisturbed_one(images, tmp_path, monkeypatch, capsys, first):
    """An image is lost in epoch 1; the run is cut in epoch 2, or stops by itself; the folder has one file less."""
    settings = words(tmp_path, images)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    never = images / "train/red/03.png"
    if first == "skip":
        never.write_text("no image")
    copy = shutil.copytree(images, tmp_path / "copy")
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, (images / LOST).unlink)
        assert main([*settings, "--output_dir", str(whole), "--on_bad_image", "skip"]) == 0
    shutil.rmtree(images)
    shutil.copytree(copy, images)
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, (images / LOST).unlink)
        at_epoch(patch, 2, cut)
        if first == "skip":
            with pytest.raises(Cut):
                main([*settings, "--output_dir", str(resumed), "--on_bad_image", "skip"])
            never.unlink()
            shutil.copy(images / "train/red/04.png", never)  # fixed, but the run began without it
        else:
            capsys.readouterr()
            assert main([*settings, "--output_dir", str(resumed)]) == 2
            assert main([*settings, "--output_dir", str(resumed)]) == 2  # by the header check
            assert capsys.readouterr().err.count(f"{LOST} (no such file") == 2
    capsys.readouterr()
    assert main([*settings, "--output_dir", str(resumed), "--on_bad_image", "skip"]) == 0
    assert "resumes from checkpoint" in capsys.readouterr().out
    assert_equal(weights(whole), weights(resumed))
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (whole, resumed)]
    assert metrics[0]["unreadable_images"] == metrics[1]["unreadable_images"]
    expected = [LOST, "train/red/03.png"][: 2 if first == "skip" else 1]
    assert [name.split(" ")[0] for name in metrics[0]["unreadable_images"]] == expected
    assert not list(resumed.glob("unreadable_images*"))


def test_a_run_does_not_resume_with_other_images(images, tmp_path, monkeypatch, capsys):
    settings = [*words(tmp_path, images), "--output_dir", str(tmp_path / "output")]
    at_epoch(monkeypatch, 1, cut)
    with pytest.raises(Cut):
        main(settings)
    shutil.copy(images / LOST, images / "train/green/99.png")
    capsys.readouterr()
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert "train has 73 images, and had 72 when the run began; restore the original images, or use another" in error


def test_a_stopped_run_names_the_image_and_resumes_once_it_is_fixed(images, tmp_path, monkeypatch, capsys):
    settings = words(tmp_path, images)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert main([*settings, "--output_dir", str(whole)]) == 0
    kept = (images / LOST).read_bytes()
    with monkeypatch.context() as patch:
        at_epoch(patch, 1, lambda: spoil_pixels(images / LOST))
        capsys.readouterr()
        assert main([*settings, "--output_dir", str(stopped)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith(
        f"hf-finetune: error: An image of train cannot be read: {LOST} ("
    )
    assert error.endswith("The checkpoints stay, and the same command resumes the run.\n")
    (images / LOST).write_bytes(kept)
    assert main([*settings, "--output_dir", str(stopped)]) == 0
    assert_equal(weights(whole), weights(stopped))


def test_a_lost_image_of_the_test_split_is_in_no_figure(images, tmp_path, monkeypatch):
    at_epoch(monkeypatch, 0, (images / "test/red/02.png").unlink)
    output = tmp_path / "output"
    settings = words(tmp_path, images, num_train_epochs=1)
    assert main([*settings, "--output_dir", str(output), "--on_bad_image", "skip"]) == 0
    content = json.loads((output / "metrics.json").read_text())
    assert content["metrics"]["test_samples"] == 23
    assert {row["name"]: row["support"] for row in content["per_class"]} == {"blue": 8, "green": 8, "red": 7}
    assert content["unreadable_images"] == ["test/red/02.png (no such file, row 18 of test)"]


@pytest.mark.parametrize("head_init", ["random", "probe"])
def test_features_are_not_kept_of_images_that_cannot_be_read(images, tmp_path, capsys, datasets_cache, head_init):
    spoil_pixels(images / LOST)
    recipe = write_recipe(tmp_path, freeze=["backbone"], train_transforms=None, head_init=head_init, num_train_epochs=1)
    result = finetune(
        str(recipe),
        dataset=str(images),
        validation_fraction=0,
        on_bad_image="skip",
        output_dir=str(tmp_path / "output"),
    )
    printed = capsys.readouterr().out
    assert "Note: features are not kept: there are images of train that cannot be read." in printed
    assert not list(datasets_cache.rglob("features/*"))
    assert result.metrics["unreadable_images"] == 1 and result.metrics["test_samples"] == 24
    if head_init == "probe":
        assert "Head: probed on 64 images" in printed  # of 71, 7 of them held out


def test_evaluation_alone_leaves_it_out_too(finished_run, images, capsys):
    spoil_pixels(images / "test/red/02.png")
    evaluate = ["evaluate", str(finished_run), "--dataset", str(images), "--use_cpu"]
    assert main(evaluate) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "An image of test cannot be read: test/red/02.png (" in error
    assert "checkpoint" not in error
    assert main([*evaluate, "--on_bad_image", "skip"]) == 0
    printed = capsys.readouterr().out
    assert "1 image could not be read when their batch was due" in printed and "23" in printed


def test_a_decompression_bomb_is_refused_by_its_header(images, finished_run, tmp_path, capsys, monkeypatch):
    bomb = images / LOST
    write_bomb(bomb)
    assert bomb.stat().st_size < 100_000
    decode = PIL.Image.Image.convert
    monkeypatch.setattr(
        PIL.Image.Image, "convert", lambda self, *a: pytest.fail("decoded") if self.width > 16 else decode(self, *a)
    )
    with pytest.raises(UserError, match=f"{LOST} \\(more than 178,956,970 pixels\\)"):
        load(images)
    assert load(images, on_bad_image="skip").bad_images == [f"{LOST} (more than 178,956,970 pixels)"]
    assert main(["predict", str(finished_run), str(bomb)]) == 2
    error = capsys.readouterr().err
    assert error == f"hf-finetune: {bomb} cannot be read as an image: more than 178,956,970 pixels.\n"
