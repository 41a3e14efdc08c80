"""Evaluation in half precision: it is one, it is tried beforehand, and the weights stay as they are."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_finetune.training.extensions.evaluation_precision import HalfPrecisionEvaluation, SinglePrecisionEvaluation
from hf_finetune.training.sanity_check import sanity_check
from tests.helpers.networks import make_model
from tests.helpers.trainers import make_trainer


@pytest.mark.parametrize(("flag", "dtype"), [("bf16_full_eval", torch.bfloat16), ("fp16_full_eval", torch.float16)])
def test_the_network_computes_in_half_precision_while_it_is_evaluated(flag, dtype):
    args = SimpleNamespace(bf16_full_eval=False, fp16_full_eval=False)
    setattr(args, flag, True)
    extension = HalfPrecisionEvaluation(args)  # type: ignore[arg-type]
    extension.attach(SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu"))))  # type: ignore[arg-type]
    layer = nn.Linear(4, 2)
    with pytest.raises(KeyError), extension.evaluating():
        assert layer(torch.zeros(1, 4)).dtype == dtype and not getattr(args, flag)
        raise KeyError
    assert layer(torch.zeros(1, 4)).dtype == layer.weight.dtype == torch.float32 and getattr(args, flag)


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["bf16_full_eval", "fp16_full_eval"])
def test_what_is_saved_is_not_rounded(tmp_path, flag):
    plain, model = make_model("resnet"), make_model("resnet")
    settings = {"num_train_epochs": 1, "eval_strategy": "epoch"}
    make_trainer(tmp_path / "plain", plain, **settings).train()
    trainer = make_trainer(tmp_path / "run", model, **settings, **{flag: True})
    sanity_check(trainer)
    trainer.train()
    rounded = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(tmp_path / "result"))
    for name, tensor in load_file(tmp_path / "result/model.safetensors").items():
        assert torch.equal(tensor, plain.state_dict()[name]), name
    exact = make_trainer(tmp_path / "other", plain).evaluate()["eval_loss"]
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)


def test_a_network_that_accelerate_trains_in_fp16_is_evaluated_in_float32():
    model = nn.Linear(4, 2)
    model._original_forward = model.forward
    model.forward = lambda images: model._original_forward(images).half()
    extension = SinglePrecisionEvaluation()
    extension.attach(SimpleNamespace(model=model))  # type: ignore[arg-type]
    with pytest.raises(KeyError), extension.evaluating():
        assert model(torch.zeros(1, 4)).dtype == torch.float32
        raise KeyError
    assert model(torch.zeros(1, 4)).dtype == torch.float16
    del model._original_forward, model.forward
    with extension.evaluating():  # before it is wrapped
        assert model(torch.zeros(1, 4)).dtype == torch.float32
