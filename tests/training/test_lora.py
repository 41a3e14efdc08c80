"""A run that trains adapters: from a probed head to a folder that pipeline loads, and stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import TrainerCallback, ViTImageProcessor, pipeline

pytest.importorskip("peft")

from hf_finetune import evaluate, export, finetune, predict
from hf_finetune.config.peft_keys import adapter_settings
from hf_finetune.config.run_files import ADAPTER_FILES
from hf_finetune.errors import Interrupted, UserError
from hf_finetune.hub.files import pushed_files
from hf_finetune.logs import ConsoleHandler, show_logs
from hf_finetune.models.adapters import add_adapters
from hf_finetune.training.checkpoints.sizes import checkpoint_sizes
from hf_finetune.training.checkpoints.store import list_checkpoints
from hf_finetune.training.finetune_result import FinetuneResult
from tests.helpers.networks import SIDE, make_model
from tests.helpers.tiny import TINY_RECIPE
from tests.helpers.trainers import make_trainer

NAMES = ["blue", "green", "red"]


@dataclass
class Run:
    """A finished run, its folder and the dataset."""

    result: FinetuneResult
    folder: Path
    images: Path
    log: list[str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of other classes."""
    folder = tmp_path_factory.mktemp("base")
    make_model("vit").save_pretrained(folder)
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def settings(base: Path, **changes: Any) -> dict[str, Any]:
    left_out = ("model_type", "model_config", "image_mean", "image_std")
    common = {key: value for key, value in TINY_RECIPE.items() if key not in left_out}
    return {**common, "model": str(base), "peft": {"r": 2, "use_dora": True}, "head_init": "auto", **changes}


@pytest.fixture(scope="module")
def run(base: Path, image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a probed head, an average of the weights and the best between start and end."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        show_logs()
        patch.setattr(ConsoleHandler, "emit", lambda self, record: lines.append(record.getMessage()))
        keys = settings(base, ema_decay=0.5, freeze=["batch_norm"], num_train_epochs=2, eval_strategy="epoch")
        result = finetune(dataset=str(image_folder), output_dir=str(folder), **keys)
    return Run(result, folder, image_folder, lines)


def test_the_run_says_how_many_parameters_are_trained_and_probes_the_head(run: Run):
    said = "\n".join(run.log)
    assert "Trained: 1,171 of 6,723 parameters (17.4%), DoRA of rank 2 in 12 layers and the head." in said
    assert "Head: probed on" in said and "From the probed head to the end of the training" in said


def test_pipeline_loads_the_folder_and_agrees_with_evaluate_and_predict(run: Run):
    files = sorted((run.images / "test").rglob("*.png"))
    answers = pipeline("image-classification", str(run.folder))([Image.open(file) for file in files], top_k=3)
    assert {entry["label"] for entry in answers[0]} == set(NAMES)
    scores = [[{entry["label"]: entry["score"] for entry in answer}[name] for name in NAMES] for answer in answers]
    figures = evaluate(str(run.folder), dataset=str(run.images), use_cpu=True)
    assert figures.metrics["accuracy"] == pytest.approx(run.result.metrics["test_accuracy"])
    assert figures.metrics["loss"] == pytest.approx(run.result.metrics["test_loss"], abs=1e-5)
    assert figures.predictions.tolist() == torch.tensor(scores).argmax(dim=1).tolist()
    for model in (str(run.folder), run.result.model):
        predicted = [dict(own.classes) for own in predict(model, files, top_k=3)]
        found = torch.tensor([[own[name] for name in NAMES] for own in predicted])
        torch.testing.assert_close(found, torch.tensor(scores), atol=1e-4, rtol=0)


def test_export_writes_a_plain_model(run: Run, tmp_path: Path):
    plain = export(str(run.folder), format="safetensors", output=tmp_path / "plain")
    assert not any((plain / name).exists() for name in ADAPTER_FILES)
    file = run.images / "test" / "red" / "00.png"
    one, two = (pipeline("image-classification", str(folder))(str(file)) for folder in (run.folder, plain))
    assert [entry["label"] for entry in one] == [entry["label"] for entry in two]
    assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in two], abs=1e-5)


def test_the_folder_has_a_card_and_its_checkpoints_hold_little(run: Run):
    card = (run.folder / "README.md").read_text()
    assert "the package peft, which is needed" in " ".join(card.split()) and "export FOLDER" in card
    assert {path.name for path in pushed_files(run.folder)} >= {"model.safetensors", *ADAPTER_FILES}
    assert json.loads((run.folder / ADAPTER_FILES[0]).read_text())["base_model_name_or_path"] is None  # no local path
    checkpoint = list_checkpoints(run.folder)[0]
    assert not (checkpoint / "model.safetensors").exists()
    assert checkpoint_sizes(run.result.model, make_trainer(run.folder, make_model("vit")).args)[0] > 25_000
    assert (checkpoint / ADAPTER_FILES[1]).stat().st_size < 15_000


class StopAtStep(TrainerCallback):
    """Sends SIGTERM to this process after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def build(folder: Path, seed_of_base: float = 0) -> Any:
    model = make_model("vit")
    with torch.no_grad():
        model.vit.layers[0].mlp.fc1.bias += seed_of_base
    add_adapters(model, adapter_settings({"r": 2}), (SIDE, SIDE), seed=0)
    items = ({"RandomCrop": {"size": SIDE, "padding": 2}},)
    chosen = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True, "ema_decay": 0.9}
    return make_trainer(folder, model, count=40, items=items, num_train_epochs=3, optim="adamw_torch", **chosen)


def test_a_stopped_run_resumes_to_the_bit_and_only_over_the_same_weights(tmp_path: Path):
    whole = build(tmp_path / "whole")
    whole.train()
    stopped = build(tmp_path / "stopped")
    stopped.add_callback(StopAtStep(4))
    with pytest.raises(Interrupted):
        stopped.train()
    checkpoint = str(list_checkpoints(tmp_path / "stopped")[0])
    with pytest.raises(UserError, match="The pretrained weights are not those that the run began with"):
        build(tmp_path / "stopped", seed_of_base=1).train(resume_from_checkpoint=checkpoint)
    resumed = build(tmp_path / "stopped")
    resumed.train(resume_from_checkpoint=checkpoint)
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
