"""The time until ours reaches the accuracy that stock has after three epochs, from the embedded checkpoint to MNIST."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import partial

from benchmarks.harness import Answer, Session, alternate, compare_seconds, seconds
from benchmarks.images import hub_copy
from benchmarks.stock import Schedule
from benchmarks.whole_runs import prepare_whole_runs

STOCK_EPOCHS = 3
STOCK_SIDE, OUR_SIDE = 64, 28  # pixels
OUR_EPOCHS = 3
# Those of the recipe cifar10_fast, with a third of its rate for a quarter of its batch. Label smoothing and transforms
# were chosen on held-out training images.
OUR_RECIPE = {
    "image_size": OUR_SIDE,
    "train_transforms": [
        {"Resize": {"size": [OUR_SIDE, OUR_SIDE]}},
        {"RandomAffine": {"degrees": 8, "translate": [0.07, 0.07], "scale": [0.92, 1.08]}},
    ],
    "optim": "muon",
    "momentum": 0.6,
    "nesterov": True,
    "adam_beta2": 0.95,
    "param_groups": {
        "*.bias": {"lr_multiplier": 0.1, "weight_decay": 0},
        "classifier": {"lr_multiplier": 0.2, "weight_decay": 0},
    },
    "label_smoothing_factor": 0.1,
    "lookahead_steps": 5,
}


def measure(session: Session) -> Answer:
    stock_schedule = Schedule(
        session.size(128, 32), learning_rate=0.05, num_train_epochs=STOCK_EPOCHS, eval_strategy="epoch"
    )
    our_schedule = Schedule(
        session.size(128, 32),
        learning_rate=0.015,
        weight_decay=0.25,
        num_train_epochs=OUR_EPOCHS,
        eval_strategy="epoch",
    )
    train, test = session.size(60_000 if session.whole else 20_000, 64), session.size(5000, 32)
    seeds = range(our_schedule.seed, our_schedule.seed + session.pairs)
    questions = [
        prepare_whole_runs(
            session,
            hub_copy(session, "mnist"),
            replace(our_schedule, seed=seed),
            dataset="mnist",
            validation_split="test",
            model_name_or_path="resnet_small_cifar10",
            max_train_samples=train,
            max_eval_samples=test,
            train_transforms=[{"Resize": {"size": STOCK_SIDE}}],
            per_device_eval_batch_size=stock_schedule.batch,
        )
        for seed in seeds
    ]
    accuracies: dict[str, list[float]] = {"ours": [], "stock": []}

    def run(side: str) -> float:
        number = len(accuracies[side])
        question, seed = questions[number], seeds[number]
        if side == "ours":
            result = question.ours(replace(our_schedule, seed=seed), **OUR_RECIPE)
        else:
            result = question.stock(replace(stock_schedule, seed=seed))
        resize = [{"Resize": {"size": OUR_SIDE if side == "ours" else STOCK_SIDE}}]
        judged = replace(question, settings={**question.settings, "train_transforms": resize})
        accuracies[side].append(judged.accuracy(result.model, session.size(10_000, 32), stock_schedule.batch))
        return result.seconds

    samples = alternate({side: partial(run, side) for side in ("ours", "stock")}, session.pairs)
    target, reached = (statistics.median(accuracies[side]) for side in ("stock", "ours"))
    if reached < target:
        samples["ours"] = [math.inf] * session.pairs
    shown = {side: ", ".join(f"{value:.2%}" for value in values) for side, values in accuracies.items()}
    return Answer(
        [
            compare_seconds(
                f"time to stock's accuracy after {STOCK_EPOCHS} epochs, embedded checkpoint to MNIST",
                samples,
                seconds,
                3,
            )
        ],
        [
            f"{train:,} training images of MNIST, others for each of the seeds {seeds[0]} to {seeds[-1]}; {test:,} test"
            " images after each epoch; all 10,000 judge the end, by the median of the seeds."
            f" Stock, {STOCK_EPOCHS} epochs at the checkpoint's {STOCK_SIDE} pixels with SGD: {shown['stock']}."
            f" Ours, {OUR_EPOCHS} epochs at the images' own {OUR_SIDE} pixels with Muon and affine transforms:"
            f" {shown['ours']}."
        ],
    )
