"""The file of decoded pictures: the same pixels as decoding gives, made once, whole or not at all."""

from __future__ import annotations

import pickle
import subprocess
import sys

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from transformers import BitImageProcessor

from hf_finetune import UserError, finetune
from hf_finetune.arguments import DataArguments
from hf_finetune.data import decode_cache
from hf_finetune.data.batching import EvaluationStage, PictureBatches, TrainingStage
from hf_finetune.data.decode_cache import DecodedPictures, open_decoded_pictures
from hf_finetune.data.loading import load_image_dataset
from hf_finetune.data.transforms import build_train_transforms
from tests.tiny import write_recipe


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache" / "hf_finetune"


@pytest.fixture
def pictures(picture_folder):
    return load_image_dataset(DataArguments(dataset=str(picture_folder)), seed=0)


def test_the_same_pixels_as_decoding(pictures, cache):
    lines = []
    decoded = open_decoded_pictures(pictures, "auto", lines.append)
    assert set(decoded) == {"train", "validation", "test"} and decoded["train"] is decoded["validation"]
    assert len(list(cache.glob("*.npy"))) == 2 and not list(cache.glob("*.unfinished")) and len(lines) == 2
    for role, split in pictures.splits.items():
        stages = [
            TrainingStage(build_train_transforms(["RandomHorizontalFlip", "RandAugment"], uniform=True), seed=1),
            EvaluationStage(BitImageProcessor(), uniform=True),
        ]
        for stage in stages:
            rows = [5, 0, 3]
            fresh = PictureBatches(split, stage).__getitems__(rows)
            kept = PictureBatches(split, stage, decoded[role]).__getitems__(rows)
            assert fresh.keys() == kept.keys() and all(torch.equal(fresh[name], kept[name]) for name in fresh)


def test_a_second_run_decodes_nothing(pictures, monkeypatch):
    open_decoded_pictures(pictures, "auto")
    monkeypatch.setattr(decode_cache, "decode_image", None)
    assert set(open_decoded_pictures(pictures, "auto")) == {"train", "validation", "test"}


def test_a_changed_file_is_decoded_anew(picture_folder, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(picture_folder, folder)
    load = lambda: load_image_dataset(DataArguments(dataset=str(folder)), seed=0)  # noqa: E731
    before = open_decoded_pictures(load(), "auto")["test"]
    PIL.Image.new("RGB", (16, 16), (1, 2, 3)).save(folder / "test" / "blue" / "00.png")
    after = open_decoded_pictures(load(), "auto")["test"]
    assert before.path != after.path
    assert (after[np.array([0])] == [1, 2, 3]).all() and not (before[np.array([0])] == [1, 2, 3]).all()


def test_the_name_is_the_same_in_another_process_and_with_another_seed():
    script = (
        "from hf_finetune.arguments import DataArguments; from hf_finetune.data.decode_cache import _key;"
        "from hf_finetune.data.loading import load_image_dataset;"
        "print(_key(load_image_dataset(DataArguments(dataset='digits'), seed=2).sources['train']))"
    )
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    here = load_image_dataset(DataArguments(dataset="digits"), seed=1).sources
    assert there.strip() == decode_cache._key(here["train"]) != decode_cache._key(here["test"])


def test_a_worker_maps_the_file_instead_of_being_sent_it(pictures):
    decoded = open_decoded_pictures(pictures, "auto")["train"]
    message = pickle.dumps(decoded)
    assert len(message) < 1000
    assert np.array_equal(pickle.loads(message)[np.arange(4)], decoded[np.arange(4)])


def test_few_pictures_of_a_large_split_are_not_worth_it(picture_folder):
    data = load_image_dataset(DataArguments(dataset=str(picture_folder), max_train_samples=10), seed=0)
    assert set(open_decoded_pictures(data, "auto")) == {"test"}
    assert set(open_decoded_pictures(data, "always")) == {"train", "validation", "test"}


def test_never_and_too_large_leave_nothing(pictures, cache, monkeypatch):
    assert open_decoded_pictures(pictures, "never") == {} and not cache.exists()
    monkeypatch.setattr(decode_cache, "AUTO_LIMIT", 1000)
    assert open_decoded_pictures(pictures, "auto") == {} and not list(cache.glob("*.npy"))


def test_a_picture_that_breaks_off_leaves_no_file(pictures, cache, monkeypatch):
    def broken(value):
        raise decode_cache.UnreadableImage("cats/3.jpg", "cut short")

    monkeypatch.setattr(decode_cache, "decode_image", broken)
    assert open_decoded_pictures(pictures, "auto") == {}
    assert not list(cache.glob("*.npy")) and not list(cache.glob("*.unfinished"))
    with pytest.raises(UserError, match=r"^decode_cache is always, but .*cats/3.jpg cannot be read.*cut short"):
        open_decoded_pictures(pictures, "always")


def test_always_says_what_stands_in_its_way(pictures, monkeypatch, tmp_path):
    monkeypatch.setattr(decode_cache.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="has room for 0.0 GB"):
        open_decoded_pictures(pictures, "always")
    PIL.Image.new("RGB", (30, 20)).save(tmp_path / "odd.png")
    pictures.image_sizes = None
    with pytest.raises(UserError, match="not known to be small and of one size; write --decode_cache auto"):
        open_decoded_pictures(pictures, "always")


def test_a_cache_folder_that_cannot_be_written_is_no_obstacle(pictures, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    assert open_decoded_pictures(pictures, "auto") == {}


def test_a_run_gives_the_same_weights_with_and_without(picture_folder, tmp_path):
    results = [
        finetune(
            str(write_recipe(tmp_path, num_train_epochs=1)),
            dataset=str(picture_folder),
            output_dir=str(tmp_path / mode),
            decode_cache=mode,
        ).model.state_dict()
        for mode in ("never", "always")
    ]
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_a_file_holds_what_numpy_reads(pictures):
    decoded = open_decoded_pictures(pictures, "auto")["test"]
    assert isinstance(decoded, DecodedPictures)
    array = np.load(decoded.path)
    assert array.shape == (24, 16, 16, 3) and array.dtype == np.uint8
