"""What a run with several labels sets itself, and the table of settings that do not go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_finetune.config.training import FinetuneArguments
from hf_finetune.data.stages import as_labels
from hf_finetune.data.streaming.order import _not_counted
from hf_finetune.data.streaming.split import Row
from hf_finetune.data.transforms.mixing import Mixing
from hf_finetune.errors import UserError
from hf_finetune.losses import asymmetric, bce
from hf_finetune.tasks import ONE_LABEL, SEVERAL_LABELS
from hf_finetune.training.balance import ClassCounts, class_weights
from hf_finetune.training.given_loss import check_loss
from hf_finetune.training.loss import BatchLoss, classification_loss
from hf_finetune.training.sampling import CountedOnce
from hf_finetune.training.task_keys import NOT_WITH_SEVERAL, follow_task


def arguments(tmp_path: Path, **values: Any) -> FinetuneArguments:
    return FinetuneArguments(output_dir=str(tmp_path), use_cpu=True, **values)


def test_loss_and_metric_follow_the_task(tmp_path: Path, logged: list[str]) -> None:
    args = arguments(tmp_path, label_smoothing_factor=0.1)
    follow_task(args, ONE_LABEL, {}, None)
    assert (args.loss, args.metric_for_best_model, args.label_smoothing_factor) == ("cross_entropy", "accuracy", 0.1)
    follow_task(args, SEVERAL_LABELS, {"metric_for_best_model": "accuracy"}, None)
    assert (args.loss, args.metric_for_best_model, args.label_smoothing_factor) == ("bce", "mAP", 0.0)
    assert logged[-1].endswith("label_smoothing_factor 0.1 is for one class, and is not used.")
    stated = {"loss": "asymmetric", "metric_for_best_model": "micro_f1"}
    args = arguments(tmp_path, **stated)
    follow_task(args, SEVERAL_LABELS, stated, None)
    assert (args.loss, args.metric_for_best_model) == ("asymmetric", "micro_f1")


SETTINGS: dict[str, Any] = {
    "calibrate": True,
    "logit_adjustment": 1.0,
    "sampling": "balanced",
}


@pytest.mark.parametrize("key", NOT_WITH_SEVERAL)
def test_what_does_not_go_with_several_labels_is_refused(tmp_path: Path, key: str) -> None:
    args = arguments(tmp_path, **{key: SETTINGS[key]})
    with pytest.raises(UserError, match=f"^{key} .*; the images have several labels, so leave it out"):
        follow_task(args, SEVERAL_LABELS, {key: SETTINGS[key]}, None)
    follow_task(args, ONE_LABEL, {key: SETTINGS[key]}, None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"class_weights": "effective"}, "class_weights effective is for one class per image; .* so use balanced"),
        ({"class_weights": "balanced", "loss": "focal"}, "in the loss bce, and loss is focal; leave one out"),
    ],
)
def test_class_weights_are_for_the_labels_of_bce(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        follow_task(arguments(tmp_path, **values), SEVERAL_LABELS, values, None)
    with pytest.raises(UserError, match="and loss is your own"):
        follow_task(arguments(tmp_path, class_weights="balanced"), SEVERAL_LABELS, {}, bce)
    follow_task(arguments(tmp_path, class_weights="balanced"), SEVERAL_LABELS, {}, None)


def test_class_weights_are_torch_s_pos_weight() -> None:
    generator = torch.manual_seed(0)
    logits = torch.randn(6, 3, generator=generator, requires_grad=True)
    labels = torch.randint(2, (6, 3), generator=generator).float()
    weights = torch.tensor([1.0, 4.0, 0.5])
    loss = BatchLoss(classification_loss(0.0, "bce").loss, weights, several=True)(output(logits), labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, labels, pos_weight=weights, reduction="none"
    ).sum(dim=1).mean()  # fmt: skip
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_balanced_weights_of_several_labels_by_hand() -> None:
    """Three of four images have a, one has b: a label a weighs 1/3, a label b 3, so yes and no weigh alike in sum."""
    labels = torch.tensor([[1.0, 0], [1, 0], [1, 1], [0, 0]])
    weights = class_weights("balanced", ClassCounts.of("ab", labels.numpy()))
    # Losses at the logits 1 and -2 are log(1 + e^-1) = 0.313262 for a label a and log(1 + e) = 1.313262 without,
    # log(1 + e^2) = 2.126928 for a label b and log(1 + e^-2) = 0.126928 without.
    by_hand = (3 * 0.313262 / 3 + 1.313262 + 3 * 2.126928 + 3 * 0.126928) / 4
    loss = BatchLoss(classification_loss(0.0, "bce").loss, torch.tensor(weights, dtype=torch.float32), several=True)
    assert loss(output(torch.tensor([[1.0, -2.0]]).expand(4, 2)), labels).item() == pytest.approx(by_hand, abs=1e-5)


def test_cross_entropy_is_refused_where_it_is_stated(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="loss is cross_entropy, which has one class .* use --loss bce, or leave it"):
        follow_task(arguments(tmp_path), SEVERAL_LABELS, {"loss": "cross_entropy"}, None)


def output(logits: torch.Tensor) -> Any:
    return SimpleNamespace(logits=logits)


@pytest.mark.parametrize("loss", [bce, asymmetric])
def test_the_loss_of_a_batch_is_the_mean_over_images_that_count(loss: Callable[..., torch.Tensor]) -> None:
    logits = torch.randn(5, 3, generator=torch.manual_seed(0))
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0], [-100, -100, -100], [0, 1, 0], [1, 1, 1]])
    batch_loss = BatchLoss(classification_loss(0.0, loss.__name__).loss, several=True)
    counted = [0, 1, 3, 4]
    expected = loss(logits[counted], labels[counted], 0.0).mean()
    assert batch_loss(output(logits), labels) == pytest.approx(expected.item())
    # The stock Trainer counts labels that are not -100, here 12 of a global batch in two passes.
    halves = [batch_loss(output(logits[part]), labels[part], torch.tensor(12)) for part in (slice(2), slice(2, 5))]
    assert sum(half.item() for half in halves) == pytest.approx(expected.item())


def test_repeated_images_of_uneven_ranks_count_once() -> None:
    class Batches:
        def __len__(self) -> int:
            return 3

        def __getitems__(self, rows: Any) -> dict[str, torch.Tensor]:
            return {"labels": torch.eye(3)[list(rows)]}

    labels = CountedOnce(Batches()).__getitems__([2, -1])["labels"]
    assert labels.tolist() == [[0, 0, 1], [-100, -100, -100]]
    row = Row({"bytes": b"", "path": None}, np.array([True, False]), 0)
    assert as_labels([row.label, _not_counted(row).label]).tolist() == [[1, 0], [-100, -100]]
    assert _not_counted(row._replace(label=3)).label == -100


def test_bce_is_that_of_torch() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels) * 3  # the mean over all, summed
    assert BatchLoss(classification_loss(0.0, "bce").loss, several=True)(output(logits), labels).item() == (
        pytest.approx(expected.item())
    )


def test_mixing_mixes_the_labels_of_images_that_count() -> None:
    from torchvision.transforms import v2

    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 8, 8).clone()
    labels = torch.tensor([[1.0, 0], [1, 1], [-100, -100], [0, 1]])
    mixed, targets = Mixing([v2.MixUp(num_classes=2, alpha=1.0)], [1.0], stream=0)(images, labels, torch.arange(4), 2)
    share = (mixed[1, 0, 0, 0] - images[0, 0, 0, 0]).item()  # 1 * share + 0 * (1 - share)
    assert 0 < share < 1 and targets[1].tolist() == pytest.approx([1, share])
    assert targets[0].tolist() == pytest.approx([share, 1 - share])  # with the last one
    # Neither the image that does not count nor the one that it would be mixed with is changed.
    assert torch.equal(mixed[2:], images[2:]) and torch.equal(targets[2:], labels[2:])


def test_a_loss_of_the_user_s_own_is_shown_several_labels() -> None:
    seen: list[torch.Tensor] = []

    def own(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return bce(logits, labels, 0.0)

    check_loss(own, 3, False, torch.device("cpu"), several=True)
    assert seen[0].shape == (2, 3) and seen[0].is_floating_point()
    with pytest.raises(UserError, match=r"it returned \(2, 3\) for 2 images; return one loss for each image, such as"):
        check_loss(torch.nn.BCEWithLogitsLoss(reduction="none"), 3, False, torch.device("cpu"), several=True)
