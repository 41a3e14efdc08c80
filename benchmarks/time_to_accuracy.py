"""The wall-clock to an accuracy: the one that stock has after three epochs, from the embedded checkpoint to MNIST."""

from __future__ import annotations

import math
import statistics

from benchmarks.harness import Answer, Session, alternate, compare_seconds, seconds
from benchmarks.ours import unknown_keys
from benchmarks.pictures import hub_copy
from benchmarks.stock import Schedule
from benchmarks.whole_runs import WholeRun, prepare_whole_runs

STOCK_EPOCHS, OURS_EPOCHS = 3, 1


def measure(session: Session) -> Answer:
    stock_schedule = Schedule(
        session.size(128, 32), learning_rate=0.05, num_train_epochs=STOCK_EPOCHS, eval_strategy="epoch"
    )
    our_schedule = Schedule(
        session.size(128, 32), learning_rate=0.05, num_train_epochs=OURS_EPOCHS, eval_strategy="epoch"
    )
    train, test = session.size(60_000 if session.whole else 20_000, 64), session.size(5000, 32)
    question = prepare_whole_runs(
        session,
        hub_copy(session, "mnist"),
        our_schedule,
        dataset="mnist",
        validation_split="test",
        model_name_or_path="resnet_small_cifar10",
        max_train_samples=train,
        max_eval_samples=test,
        train_transforms=[{"Resize": {"size": 64}}],
    )
    probe = {} if unknown_keys("head_init") else {"head_init": "probe"}
    runs: dict[str, list[WholeRun]] = {"ours": [], "stock": []}

    def ours() -> float:
        runs["ours"].append(question.ours(our_schedule, **probe))
        return runs["ours"][-1].seconds

    def stock() -> float:
        runs["stock"].append(question.stock(stock_schedule))
        return runs["stock"][-1].seconds

    samples = alternate({"ours": ours, "stock": stock}, session.pairs)
    target = statistics.median(run.accuracy for run in runs["stock"])
    samples["ours"] = [run.seconds if run.accuracy >= target else math.inf for run in runs["ours"]]
    reached = statistics.median(run.accuracy for run in runs["ours"])
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
            f"{train:,} training and {test:,} test pictures of MNIST. Stock reaches {target:.2%} after {STOCK_EPOCHS}"
            f" epochs, ours {reached:.2%} after {OURS_EPOCHS}, medians over the pairs."
        ],
    )
