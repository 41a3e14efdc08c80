"""Networks of one channel: trained on luminance, saved so that plain `pipeline` gives what was evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, pipeline

from hf_finetune import evaluate, finetune, predict
from hf_finetune.errors import UserError
from hf_finetune.models.channels import see_luminance, with_three_channels
from tests.helpers.tiny import TINY_RECIPE, TINY_RESNET

SMALL_SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [3, 3],
    "window_size": 4,
}
SMALL = {"image_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.parametrize(
    "config",
    [
        AutoConfig.for_model("resnet", num_labels=3, num_channels=1, **TINY_RESNET),
        AutoConfig.for_model("vit", num_labels=3, num_channels=1, patch_size=8, **SMALL),
        AutoConfig.for_model("convnext", num_labels=3, num_channels=1, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1]),
        AutoConfig.for_model("swin", num_labels=3, num_channels=1, **SMALL_SWIN),
        AutoConfig.for_model("mobilenet_v2", num_labels=3, num_channels=1, depth_multiplier=0.25),
    ],
    ids=lambda config: config.model_type,
)
def test_three_channels_give_the_same_logits(config):
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config).eval()
    see_luminance(model)
    pixels = torch.randn(2, 3, 32, 32)
    saved_config, weights = with_three_channels(model)
    saved = AutoModelForImageClassification.from_config(saved_config).eval()
    saved.load_state_dict(weights)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).logits
        torch.testing.assert_close(saved(pixel_values=pixels).logits, expected, atol=1e-4, rtol=1e-4)
        assert not torch.equal(model(pixel_values=pixels.flip(1)).logits, expected)
    assert model.config.num_channels == 1


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dark and light images, in grey but for one of each class and split."""
    folder = tmp_path_factory.mktemp("grey")
    generator = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 6)):
        for name, level in (("dark", 60), ("light", 190)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shape = (16, 16, 3) if number == 0 else (16, 16)
                pixels = np.clip(generator.normal(level, 15, shape), 0, 255).astype(np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"{number}.png")
    return folder


RECIPE = {**TINY_RECIPE, "global_batch_size": 8, "num_train_epochs": 8, "lr_milestones": [7]}


@pytest.mark.slow
def test_pipeline_gives_what_was_evaluated(images, tmp_path, caplog):
    recipe = {**RECIPE, "model_config": {**TINY_RESNET, "num_channels": 1}}
    folder = tmp_path / "output"
    with caplog.at_level("INFO", "hf_finetune"):
        result = finetune(recipe, dataset=str(images), output_dir=str(folder))
    assert result.metrics["test_accuracy"] == 1
    assert "The network of 1 channel is saved with 3" in caplog.text
    assert "The network of 1 channel is saved with 3" in (folder / "README.md").read_text()
    figures = evaluate(str(folder), dataset=str(images), use_cpu=True).metrics
    assert figures["loss"] == pytest.approx(result.metrics["test_loss"], abs=1e-5)
    paths = [str(path) for path in sorted((images / "test").glob("*/*.png"))]
    answers = pipeline("image-classification", model=str(folder), device="cpu")(paths)
    for model in (str(folder), result.model):
        given = {} if isinstance(model, str) else {"image_processor": result.image_processor}
        for mine, theirs in zip(predict(model, paths, **given), answers, strict=True):
            assert (mine.label, mine.score) == (theirs[0]["label"], pytest.approx(theirs[0]["score"], abs=1e-5))


@pytest.mark.parametrize("channels", [2, 4, 13])
def test_other_numbers_of_channels_are_refused_in_one_line(images, tmp_path, channels):
    recipe = {**RECIPE, "model_config": {**TINY_RESNET, "num_channels": channels}}
    with pytest.raises(UserError, match=f"^The network takes {channels} channels[^\n]*num_channels: 3[^\n]*$"):
        finetune(recipe, dataset=str(images), output_dir=str(tmp_path / "output"))


def test_a_network_that_cannot_be_spread_is_refused(images, tmp_path):
    recipe = {**RECIPE, "model_type": "fast_resnet", "model_config": {"num_channels": 1}}
    with pytest.raises(UserError, match=r"of 1 channel cannot be given RGB images; use 3 channels"):
        finetune(recipe, dataset=str(images), output_dir=str(tmp_path / "output"))
