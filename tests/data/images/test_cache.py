"""The file of decoded images: the same pixels as decoding gives, made once, whole or not at all."""

from __future__ import annotations

import os
import pickle
import shutil

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BitImageProcessor

from hf_finetune import UserError, finetune
from hf_finetune.config.data import DataArguments
from hf_finetune.data.batches import ImageBatches
from hf_finetune.data.build import load_image_dataset
from hf_finetune.data.collate import pass_on
from hf_finetune.data.images import cache as decode_cache
from hf_finetune.data.images.cache import finish, open_decoded_images
from hf_finetune.data.images.decoding import UnreadableImage
from hf_finetune.data.stages import EvaluationStage, TrainingStage
from hf_finetune.data.transforms.build import build_train_transforms
from tests.helpers.launched import run_in
from tests.helpers.tiny import write_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "hf_finetune"


@pytest.fixture
def images(image_folder):
    return load_image_dataset(DataArguments(dataset=str(image_folder)), seed=0)


def test_the_same_pixels_as_decoding(images, cache):
    decoded = open_decoded_images(images, "auto")
    assert set(decoded) == {"train", "validation", "test"} and decoded["train"] is decoded["validation"]
    assert len(list(cache.glob("*.unfinished"))) == 2
    for role, split in images.splits.items():
        stages = [
            TrainingStage(build_train_transforms(["RandomHorizontalFlip", "RandAugment"], uniform=True), seed=1),
            EvaluationStage(BitImageProcessor(), uniform=True),
        ]
        for stage in stages:
            fresh = ImageBatches(split, stage).__getitems__([5, 0, 3])
            kept = ImageBatches(split, stage, decoded[role])
            for batch in (kept.__getitems__([5, 0, 3]), kept.__getitems__([5, 0, 3])):
                assert fresh.keys() == batch.keys() and all(torch.equal(fresh[name], batch[name]) for name in fresh)


def test_two_roles_of_one_split_have_one_file(image_folder):
    arguments = DataArguments(dataset=str(image_folder), validation_split="test")
    decoded = open_decoded_images(load_image_dataset(arguments, seed=0), "auto")
    assert decoded["validation"] is decoded["test"]
    before = decoded["validation"][np.arange(24)]
    finish(decoded.values())
    again = open_decoded_images(load_image_dataset(arguments, seed=0), "auto")["test"]
    assert before.any() and np.array_equal(again[np.arange(24)], before)


def test_an_earlier_run_of_the_process_does_not_publish_the_file_of_a_later_one(images):
    first = open_decoded_images(images, "auto")["test"]
    second = open_decoded_images(images, "auto")["test"]
    before = first[np.arange(24)]
    assert first.unfinished != second.unfinished
    second.finish()
    first.finish()
    assert np.array_equal(open_decoded_images(images, "auto")["test"][np.arange(24)], before)


def test_a_file_that_was_put_in_its_place_is_not_published(images, cache):
    decoded = open_decoded_images(images, "auto")["test"]
    content = decoded.unfinished.read_bytes()
    decoded.unfinished.unlink()
    decoded.unfinished.write_bytes(content)
    decoded.finish()
    assert not list(cache.glob("*.npy"))


def test_each_image_is_decoded_once(images, monkeypatch):
    decoded = open_decoded_images(images, "auto")["test"]
    count = []
    decode = decode_cache.decode_pixels
    monkeypatch.setattr(decode_cache, "decode_pixels", lambda *given: count.append(1) or decode(*given))
    for rows in ([0, 1, 2], [2, 3], [0, 1, 2, 3]):
        decoded[np.array(rows)]
    assert len(count) == 4


def test_what_one_run_decoded_another_finds(images, cache, monkeypatch):
    decoded = open_decoded_images(images, "auto")
    before = decoded["test"][np.arange(24)]
    finish(decoded.values())
    assert len(list(cache.glob("*.npy"))) == len(list(cache.glob("decoded-*"))) == 2
    assert np.array_equal(decoded["test"][np.arange(24)], before)  # the run itself continues with the renamed file
    monkeypatch.setattr(decode_cache, "decode_pixels", None)
    again = open_decoded_images(images, "auto")
    assert np.array_equal(again["test"][np.arange(24)], before) and again["train"][np.arange(72)].any()
    array = np.load(again["test"].finished)
    assert array.shape == (24, 16, 16, 3) and array.dtype == np.uint8


def test_two_processes_of_a_run_fill_one_file(images, monkeypatch):
    first_run = 7
    monkeypatch.setattr(decode_cache, "_runs", iter([first_run]))
    first = open_decoded_images(images, "auto", processes=2, local_process_index=0)["test"]
    first[np.arange(12)]
    monkeypatch.setattr(decode_cache, "decode_pixels", None)  # the second finds what the first has done
    monkeypatch.setattr(decode_cache, "_runs", iter([first_run]))
    second = open_decoded_images(images, "auto", processes=2, local_process_index=1)["test"]
    assert second[np.arange(12)].any() and second.unfinished == first.unfinished


def test_two_runs_do_not_share_what_is_not_finished(images, monkeypatch):
    first = open_decoded_images(images, "auto")["test"]
    monkeypatch.setattr(decode_cache.os, "getpid", lambda: 1)
    assert open_decoded_images(images, "auto")["test"].unfinished != first.unfinished


def test_what_a_killed_run_left_is_cleared_away(images, cache):
    old, young = cache / "decoded-1.7.unfinished", cache / "decoded-1.8.unfinished"
    for path in (old, young):
        path.write_text("")
    os.utime(old, (0, 0))
    open_decoded_images(images, "auto")
    assert not old.exists() and young.exists()


def test_a_changed_file_is_decoded_anew(image_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(image_folder, folder)
    names, pixels = [], []
    for _ in range(2):
        data = load_image_dataset(DataArguments(dataset=str(folder)), seed=0)
        decoded = open_decoded_images(data, "auto")["test"]
        pixels.append(decoded[np.array([0])])
        decoded.finish()
        names.append(decoded.finished)
        PIL.Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "test" / "blue" / "00.png")
    assert names[0] != names[1] and not (pixels[0] == [1, 2, 3]).all() and (pixels[1] == [1, 2, 3]).all()


def test_the_name_is_the_same_in_another_process_and_with_another_seed(tmp_path):
    script = tmp_path / "name.py"
    script.write_text(
        "from hf_finetune.config.data import DataArguments; from hf_finetune.data.images.cache import _key;"
        "from hf_finetune.data.build import load_image_dataset;"
        "print(_key(load_image_dataset(DataArguments(dataset='digits'), seed=2).sources['train']))"
    )
    there = run_in(1, script).stdout
    here = load_image_dataset(DataArguments(dataset="digits"), seed=1).sources
    assert there.strip() == decode_cache._key(here["train"]) != decode_cache._key(here["test"])


def test_a_worker_maps_the_file_instead_of_being_sent_it(images):
    decoded = open_decoded_images(images, "auto")["train"]
    before = decoded[np.arange(4)]
    message = pickle.dumps(decoded)
    assert len(message) < 0.5 * decoded.unfinished.stat().st_size
    assert np.array_equal(pickle.loads(message)[np.arange(4)], before)
    decoded.finish()
    assert np.array_equal(pickle.loads(message)[np.arange(4)], before)  # of a worker that starts after the renaming


def test_few_images_of_a_large_split_are_not_worth_it(image_folder):
    data = load_image_dataset(DataArguments(dataset=str(image_folder), max_train_samples=10), seed=0)
    assert set(open_decoded_images(data, "auto")) == {"test"}
    assert set(open_decoded_images(data, "always")) == {"train", "validation", "test"}


def test_never_and_too_large_leave_nothing(images, cache, monkeypatch):
    assert open_decoded_images(images, "never") == {} and not list(cache.glob("decoded-*"))
    monkeypatch.setattr(decode_cache, "AUTO_LIMIT", 1000)
    assert open_decoded_images(images, "auto") == {} and not list(cache.glob("decoded-*"))


def test_a_image_that_cannot_be_read_leaves_no_file(images, cache, monkeypatch):
    def broken(value, how):
        raise UnreadableImage("cats/3.jpg", "cut short")

    monkeypatch.setattr(decode_cache, "decode_pixels", broken)
    decoded = open_decoded_images(images, "auto")
    with pytest.raises(UserError, match="cats/3.jpg cannot be read"):
        decoded["test"][np.array([3])]
    finish(decoded.values())
    assert not list(cache.glob("*.npy"))


def test_a_image_of_another_size_is_named(images):
    images.image_sizes = (16, 18)
    decoded = open_decoded_images(images, "auto")
    with pytest.raises(UserError, match="it has 16 x 16 pixels instead of 16 x 18"):
        decoded["test"][np.array([3])]


def test_always_says_what_prevents_it(images, monkeypatch):
    monkeypatch.setattr(decode_cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="has 0.0 GB free"):
        open_decoded_images(images, "always")
    images.image_sizes = None
    with pytest.raises(UserError, match="not known to be small and of one size; use --decode_cache auto"):
        open_decoded_images(images, "always")


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(images, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    assert open_decoded_images(images, "auto") == {}


def test_a_run_gives_the_same_weights_with_and_without(image_folder, tmp_path):
    results = [
        finetune(
            str(write_recipe(tmp_path, num_train_epochs=1)),
            dataset=str(image_folder),
            output_dir=str(tmp_path / mode),
            decode_cache=mode,
        ).model.state_dict()
        for mode in ("never", "always")
    ]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def finished_file(images, cache) -> os.PathLike:
    finish(open_decoded_images(images, "always").values())
    return max(cache.glob("*.npy"), key=os.path.getsize)  # that of train


@pytest.mark.parametrize("workers", [0, 2])
def test_flipped_bytes_are_decoded_anew_and_said_once(images, cache, workers, capfd):
    path = finished_file(images, cache)
    whole = path.read_bytes()
    path.write_bytes(whole[:2000] + bytes([whole[2000] ^ 255]) + whole[2001:])
    stage = EvaluationStage(BitImageProcessor(), uniform=True)
    rows = list(range(len(images.splits["train"])))
    expected = ImageBatches(images.splits["train"], stage).__getitems__(rows)["pixel_values"]
    for _ in range(2):
        kept = ImageBatches(images.splits["train"], stage, open_decoded_images(images, "always")["train"])
        loader = torch.utils.data.DataLoader(kept, len(rows), num_workers=workers, collate_fn=pass_on)
        (batch,) = loader
        assert torch.equal(batch["pixel_values"], expected)
    assert capfd.readouterr().err.count("the cache of decoded images is damaged") == 1
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b"nonsense", None])
def test_a_truncated_file_is_made_anew(images, cache, content, caplog):
    path = finished_file(images, cache)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] if content is None else content)
    decoded = open_decoded_images(images, "always")
    assert "the cache of decoded images is damaged or of another version" in caplog.text
    finish(decoded.values())
    assert path.read_bytes() == whole


def test_an_image_that_is_lost_does_not_hide_the_others_of_a_damaged_block(images, cache, monkeypatch):
    path = finished_file(images, cache)
    content = path.read_bytes()
    decoded = open_decoded_images(images, "always")["train"]
    expected = decoded[np.array([1])]
    path.write_bytes(content[:2000] + b"\0\1" * 50 + content[2100:])
    decoded = open_decoded_images(images, "always")["train"]
    lost = decoded.source[0]["image"]["path"]
    decode = decode_cache.decode_pixels

    def losing(value, how):
        if value["path"] == lost:
            raise UnreadableImage(lost, "no such file")
        return decode(value, how)

    monkeypatch.setattr(decode_cache, "decode_pixels", losing)
    assert np.array_equal(decoded[np.array([1])], expected)
    with pytest.raises(UnreadableImage):
        decoded[np.array([0, 1])]
