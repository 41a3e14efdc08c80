"""Predictions as a folder of tables: what is in them, how an interrupted folder is resumed, and what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from hf_finetune import UserError, predict, predict_to_folder
from hf_finetune.cli.main import main
from hf_finetune.jobs import predict_folder


@pytest.fixture
def images(image_folder, tmp_path) -> Path:
    """Ten images and one that cannot be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted((image_folder / "test").rglob("*.png"))[::2][:10]):
        shutil.copy(path, folder / f"{number:02d}.png")
    (folder / "04x.png").write_text("no image")
    return folder


def rows_of(folder: Path) -> list[dict]:
    return [row for table in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(table).to_pylist()]


def test_the_three_formats_say_what_predict_says(finished_run, images, tmp_path, capsys):
    expected = predict(finished_run, str(images), top_k=3)
    for form in ("parquet", "jsonl", "csv"):
        words = ["--output", str(tmp_path / form), "--format", form, "--top_k", "3", "--shard_size", "4"]
        capsys.readouterr()
        assert main(["predict", str(finished_run), str(images), *words, "--dataloader_num_workers", "1"]) == 2
        captured = capsys.readouterr()
        assert f"11 images, 1 of which cannot be read, in 3 tables: {tmp_path / form}." in captured.out
        assert f"{images}/04x.png cannot be read as an image: not an image." in captured.err
        assert sorted(path.name for path in (tmp_path / form).iterdir()) == [
            "_manifest.json",
            *(f"part-0000{part}.{form}" for part in range(3)),
        ]
    parquet = rows_of(tmp_path / "parquet")
    lines = [json.loads(line) for path in sorted((tmp_path / "jsonl").glob("part*")) for line in path.open()]
    cells = [row for path in sorted((tmp_path / "csv").glob("part*")) for row in csv.DictReader(path.open())]
    for prediction, row, line in zip(expected, parquet, lines, strict=True):
        assert (
            row["file"] == line["file"] == str(prediction.image) and row["error"] == line["error"] == prediction.error
        )
        assert [(item["label"], item["score"]) for item in line["predictions"]] == list(prediction.classes)
        assert list(zip(row["labels"], row["scores"], strict=True)) == list(prediction.classes)
        own = [cell for cell in cells if cell["file"] == row["file"]]
        assert [cell["label"] for cell in own] == (row["labels"] or [""])
        assert {cell["error"] for cell in own} == {prediction.error or ""}


def test_an_interrupted_call_resumes_without_doing_anything_twice(finished_run, images, tmp_path, images_seen, logged):
    settings = {"batch_size": 2, "shard_size": 4, "dataloader_num_workers": 0}
    whole = predict_to_folder(finished_run, images, output=tmp_path / "whole", **settings)
    assert (whole.images, whole.unreadable, len(whole.tables)) == (11, 1, 3)
    complete, seen = sum(images_seen), []
    for fails_at in (3, 5):  # of the batches of a call
        images_seen.clear()
        with pytest.MonkeyPatch.context() as patch:
            classify, calls = predict_folder.Classification.classify, []

            def failing(self, pixel_values, classify=classify, calls=calls, fails_at=fails_at):
                calls.append(len(pixel_values))
                if len(calls) == fails_at:
                    raise KeyboardInterrupt
                return classify(self, pixel_values)

            patch.setattr(predict_folder.Classification, "classify", failing)
            try:
                resumed = predict_to_folder(finished_run, images, output=tmp_path / "stopped", **settings)
            except KeyboardInterrupt:
                assert not list((tmp_path / "stopped").glob(".unfinished*"))
        seen.append(sum(images_seen))
    # The first call makes one part of 4 images; the second needs 4 batches for the others.
    assert seen == [4, complete - 4] and resumed.unreadable == 1
    assert f"{tmp_path}/stopped: 1 of 3 tables are done; the others follow." in logged
    for table in whole.tables:
        assert (tmp_path / "stopped" / table.name).read_bytes() == table.read_bytes()


def begin(model: Path, images: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave a folder in which one of three parts is done."""
    with monkeypatch.context() as patch:
        make = predict_folder._Job._make
        patch.setattr(
            predict_folder._Job, "_make", lambda self, part, *rest: make(self, part, *rest) if not part else 1 / 0
        )
        with pytest.raises(ZeroDivisionError):
            predict_to_folder(model, images, output=folder, shard_size=4)


def test_what_does_not_continue_a_folder_is_refused(finished_run, images, tmp_path, monkeypatch):
    begin(finished_run, images, tmp_path / "out", monkeypatch)
    before = (tmp_path / "out" / "part-00000.parquet").read_bytes()
    for message, model, changed in (
        ("was begun with top_k not set, and now it is 2", finished_run, {"top_k": 2}),
        ("was begun with format parquet, and now it is jsonl", finished_run, {"format": "jsonl"}),
        ("was begun with another model", "resnet_small_cifar10", {}),
    ):
        with pytest.raises(UserError, match=message):
            predict_to_folder(model, images, **{"output": tmp_path / "out", "shard_size": 4, **changed})
    shutil.copy(images / "00.png", images / "new.png")
    with pytest.raises(UserError, match="was begun for 11 images, and now there are 12"):
        predict_to_folder(finished_run, images, output=tmp_path / "out", shard_size=4)
    (images / "new.png").unlink()
    assert (tmp_path / "out" / "part-00000.parquet").read_bytes() == before
    predict_to_folder(finished_run, images, output=tmp_path / "out", shard_size=4)
    with pytest.raises(UserError, match="holds finished predictions"):
        predict_to_folder(finished_run, images, output=tmp_path / "out", shard_size=4)


def test_a_table_that_lost_its_end_is_made_again(finished_run, images, tmp_path, monkeypatch):
    begin(finished_run, images, tmp_path / "out", monkeypatch)
    table = tmp_path / "out" / "part-00000.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[:-1])
    predict_to_folder(finished_run, images, output=tmp_path / "out", shard_size=4)
    assert table.read_bytes() == whole


def test_tars_tables_and_datasets_give_what_their_files_give(finished_run, images, image_folder, tmp_path):
    (images / "04x.png").unlink()
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for path in sorted(images.iterdir()):
            tar.add(path, path.name)
    of_files = predict_to_folder(finished_run, images, output=tmp_path / "of_files").folder
    of_tar = predict_to_folder(finished_run, tmp_path / "images.tar", output=tmp_path / "of_tar").folder
    for one, other in zip(rows_of(of_files), rows_of(of_tar), strict=True):
        assert other["file"] == f"{tmp_path}/images.tar/{Path(one['file']).name}"
        assert one["scores"] == other["scores"]
    of_split = predict_to_folder(finished_run, dataset=image_folder, split="test", output=tmp_path / "of_split")
    assert of_split.images == 24
    answers = predict(finished_run, image_folder / "test")
    assert [row["scores"][0] for row in rows_of(of_split.folder)] == [answer.score for answer in answers]


def test_embeddings_give_the_probabilities_by_the_head_alone(finished_run, images, tmp_path):
    from transformers import AutoModelForImageClassification

    folder = predict_to_folder(
        finished_run, images, output=tmp_path / "out", embeddings=True, top_k=3, dataloader_num_workers=0
    ).folder
    rows = [row for row in rows_of(folder) if row["error"] is None]
    model = AutoModelForImageClassification.from_pretrained(finished_run).eval()
    features = torch.tensor([row["embedding"] for row in rows])
    probabilities = model.classifier(features[:, :, None, None]).softmax(-1).detach()
    for row, own in zip(rows, probabilities, strict=True):
        by_name = {model.config.id2label[number]: score for number, score in enumerate(own.tolist())}
        assert dict(zip(row["labels"], row["scores"], strict=True)) == pytest.approx(by_name, abs=1e-6)
    assert predict(finished_run, images, embeddings=True)[0].embedding.tolist() == rows[0]["embedding"]
    file = tmp_path / "one.jsonl"
    assert main(["predict", str(finished_run), str(images), "--embeddings", "--output", str(file)]) == 2
    assert json.loads(file.read_text().splitlines()[0])["embedding"] == rows[0]["embedding"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["images", "--format", "parquet"], "use --output FOLDER"),
        (["images", "--format", "xlsx", "--output", "out"], "--format is xlsx; use parquet, csv, jsonl"),
        (["images", "--format", "csv", "--output", "out", "--embeddings"], "--embeddings do not fit into CSV"),
        (["images", "--format", "csv", "--output", "images"], "holds other files, such as 00.png"),
        (["images", "--format", "csv", "--output", "images/00.png"], "00.png is a file"),
        (["images", "--embeddings"], "--embeddings need --output"),
        (["images", "--shard_size", "3"], "--shard_size is of a folder of tables"),
        (["images", "--dataset", "digits"], "both name images"),
        (["images", "--split", "test"], "--split is of a dataset"),
        ([], "There are no images"),
        (["images", "--output", "there.parquet"], "there.parquet exists"),
    ],
)
def test_mistakes_are_one_line(finished_run, images, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("there.parquet").touch()
    capsys.readouterr()
    assert main(["predict", str(finished_run), *words]) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(message), error) and error.count("\n") == 1
    assert not Path("out").exists() and len(list(images.iterdir())) == 11


def test_several_processes_need_a_folder(finished_run, images, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["predict", str(finished_run), str(images)]) == 2
    assert "Several processes write a folder of tables" in capsys.readouterr().err
