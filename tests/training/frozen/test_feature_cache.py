"""Where features are kept: the name changes with all that they depend on, and a file is whole or not there."""

from __future__ import annotations

import os
import shutil

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, Features, Image, Value

from hf_finetune.models.head import head_parameter_names
from hf_finetune.training.frozen.feature_cache import FeaturesNotKept, feature_file, read_features, write_features
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_dataset


def name(split: Dataset, model: torch.nn.Module, **settings: object) -> str:
    return feature_file(split, model, head_parameter_names(model), settings).name


def test_what_does_not_matter_does_not_change_the_name(datasets_cache):
    model, split = make_model("resnet"), make_dataset(8)
    expected = name(split, model)
    assert feature_file(split, model, head_parameter_names(model), {}).parent == datasets_cache / "hf_finetune/features"
    with torch.no_grad():
        model.classifier[1].weight.add_(1)
    model.config.id2label = {0: "other", **model.config.id2label}
    split.set_transform(lambda rows: rows)
    assert name(split, model) == expected
    assert name(make_dataset(16).select(range(8)), model) == expected
    assert name(make_dataset(8).remove_columns("label").add_column("label", [0] * 8), model) == expected


def test_what_matters_changes_it():
    model, split = make_model("resnet"), make_dataset(8)
    names = {name(split, model), name(split, model, image_size=32), name(split, make_model("vit"))}
    names |= {name(split.select(range(7)), model), name(split.select(range(7, -1, -1)), model)}
    with torch.no_grad():
        model.resnet.embedder.embedder.convolution.weight[0, 0, 0, 0] += 1e-6
    names.add(name(split, model))
    model.resnet.embedder.embedder.normalization.running_mean += 1e-6
    names.add(name(split, model))
    model.config.hidden_act = "gelu"
    names.add(name(split, model))
    assert len(names) == 8


def test_a_file_that_was_changed_changes_it(tmp_path):
    path = tmp_path / "image.png"
    features = Features({"image": Image(decode=False), "label": Value("int64")})
    split = Dataset.from_dict({"image": [{"bytes": None, "path": str(path)}], "label": [0]}, features=features)
    model, names = make_model("resnet"), set()
    for shade, changed in ((10, 1_000), (20, 2_000)):
        PIL.Image.new("L", (8, 8), shade).save(path)
        os.utime(path, (changed, changed))
        names.add(name(split, model))
    assert len(names) == 2


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "below" / "features.npy"
    expected = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    write_features(path, (4, 3, 2), iter([expected[:3], expected[3:].astype(np.float64)]))
    assert np.array_equal(np.load(path), expected) and np.load(path).dtype == np.float32

    def interrupted():
        yield expected[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_features(tmp_path / "below" / "other.npy", (4, 3, 2), interrupted())
    assert os.listdir(path.parent) == ["features.npy"]


def test_what_would_not_fit_the_disk_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(FeaturesNotKept, match=r"they take 2\.0 GB and .* has 0\.0 GB left"):
        write_features(tmp_path / "features.npy", (1_000_000, 512), iter(()))
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeaturesNotKept, match="cannot be written to"):
        write_features(tmp_path / "file" / "features.npy", (1, 2), iter(()))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:100],
        lambda content: content[:-4],
        lambda content: content[:150] + b"\1" + content[151:],
        lambda content: content[:-1] + b"\1",
    ],
)
def test_damaged_features_are_deleted_and_said(tmp_path, damage, caplog):
    path = tmp_path / "features.npy"
    expected = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    write_features(path, (4, 3, 2), iter([expected]))
    assert np.array_equal(read_features(path, (4, 3, 2)), expected)
    path.write_bytes(damage(path.read_bytes()))
    assert read_features(path, (4, 3, 2)) is None and not path.exists()
    (record,) = caplog.records
    assert "kept features are damaged or of another version (features.npy: " in record.message
    assert read_features(path, (4, 3, 2)) is None and len(caplog.records) == 1
