"""`hf-finetune stats` against numpy."""

from __future__ import annotations

import json

import numpy as np
import PIL.Image
import pytest
import yaml

from hf_finetune import UserError, dataset_stats
from hf_finetune.cli.main import main


def write(folder, images):
    """Write arrays as PNG files of two classes, by turns."""
    for number, pixels in enumerate(images):
        (folder / "train" / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels).save(folder / "train" / "ab"[number % 2] / f"{number}.png")
    return folder


def random_images(shape, count=6, dtype=np.uint8, high=256):
    return [np.random.default_rng(number).integers(0, high, shape, dtype=dtype) for number in range(count)]


def expected(images):
    """Mean and standard deviation of all pixels of images of one size, parts of 1."""
    flat = np.stack(images).reshape(-1, images[0].shape[-1]) / 255
    return flat.mean(axis=0), flat.std(axis=0)


@pytest.mark.parametrize(("shape", "seen"), [((8, 9, 3), 3), ((8, 9, 4), 3), ((8, 9), 1)])
def test_colour_alpha_and_grey(shape, seen, tmp_path):
    images = random_images(shape)
    stats = dataset_stats(write(tmp_path, images))
    mean, std = expected([np.broadcast_to(pixels.reshape(8, 9, -1)[..., :seen], (8, 9, 3)) for pixels in images])
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(stats.std, std, rtol=1e-9)
    assert stats.images == stats.of == 6 and stats.value_range is None


def test_sixteen_bits_by_the_range_of_values(tmp_path):
    images = random_images((8, 9), dtype=np.uint16, high=4096)
    stats = dataset_stats(write(tmp_path, images))
    mean, std = expected([np.repeat((pixels // 16)[..., None], 3, axis=2) for pixels in images])
    np.testing.assert_allclose(stats.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(stats.std, std, rtol=1e-9)
    assert stats.value_range == (0, 4095)


def test_an_image_counts_like_any_other_whatever_its_size(tmp_path):
    stats = dataset_stats(write(tmp_path, [np.zeros((2, 2, 3), np.uint8), np.full((20, 20, 3), 255, np.uint8)]))
    assert stats.mean == (0.5, 0.5, 0.5) and stats.std == (0.5, 0.5, 0.5)


def test_a_sample_is_drawn_by_the_seed(tmp_path):
    folder = write(tmp_path, [np.full((2, 2, 3), 10 * number, np.uint8) for number in range(20)])
    first, again, other = (dataset_stats(folder, images=4, seed=seed) for seed in (1, 1, 2))
    assert first == again and first.mean != other.mean and (first.images, first.of) == (4, 20)


def test_a_stream(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Image

    images = random_images((8, 9, 3))
    features = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    rows = {"image": [PIL.Image.fromarray(pixels) for pixels in images], "label": [0, 1] * 3}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    stats = dataset_stats(tmp_path, streaming=True)
    np.testing.assert_allclose(stats.mean, expected(images)[0], rtol=1e-12)
    assert stats.images == 6


def test_the_command_prints_keys_of_a_recipe(tmp_path, capsys):
    images = random_images((8, 9, 3))
    folder = str(write(tmp_path, images))
    capsys.readouterr()
    assert main(["stats", folder]) == 0
    printed = capsys.readouterr().out
    keys = yaml.safe_load(printed.partition("In a recipe:")[2])
    np.testing.assert_allclose(keys["image_mean"], 255 * expected(images)[0], atol=5e-4)
    np.testing.assert_allclose(keys["image_std"], 255 * expected(images)[1], atol=5e-4)
    assert "6 of 6 images" in printed
    assert main(["stats", folder, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["image_mean"] == keys["image_mean"] and document["split"] == "train"


def test_what_cannot_be_read_does_not_count(tmp_path, logged):
    folder = write(tmp_path, random_images((40, 40, 3)))
    content = (folder / "train" / "a" / "0.png").read_bytes()
    (folder / "train" / "a" / "0.png").write_bytes(content[:900] + bytes(40) + content[940:])
    stats = dataset_stats(folder)
    assert (stats.images, stats.unreadable) == (5, 1)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        ({"images": 0}, "images is 0|images=0"),
        ({"split": "tset"}, 'has no split "tset"'),
        ({"label_column": "nothing"}, "nothing"),
    ],
)
def test_mistakes(call, line, tmp_path):
    with pytest.raises(UserError, match=line):
        dataset_stats(write(tmp_path, random_images((4, 4, 3))), **call)
