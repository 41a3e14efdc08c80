"""Write the tables of the documentation that come from a registry, so that an entry there is all that is needed.

    python docs/site/tables.py

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->` in a page of docs/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from hf_finetune.data.catalog import CATALOG
from hf_finetune.evaluation.metrics import METRICS, Metric
from hf_finetune.evaluation.multi_label import MULTI_LABEL_METRICS
from hf_finetune.losses import LOSSES

DOCS = Path(__file__).resolve().parents[1]
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def datasets_table() -> str:
    """Return the table of the named datasets."""
    rows = [
        [
            f"`{entry.name}`",
            entry.hub_id or "built in",
            f"{entry.num_classes:,}",
            ", ".join(f"{split} {size:,}" for split, size in entry.split_sizes.items()),
            f"`{entry.recipe}`",
        ]
        for entry in CATALOG.values()
    ]
    return _table(["Name", "On the Hub", "Classes", "Splits", "Recipe of `--dataset NAME`"], rows)


def metrics_table() -> str:
    """Return the table of the metrics: the meaning of each is its function's docstring."""
    return _metrics_table(METRICS)


def multi_label_metrics_table() -> str:
    """Return the table of the metrics of images with several labels."""
    return _metrics_table(MULTI_LABEL_METRICS)


def _metrics_table(metrics: Mapping[str, Metric]) -> str:
    rows = []
    for name, metric in metrics.items():
        better = {True: "higher", False: "lower", None: "depends"}[metric.greater_is_better]
        rows.append([f"`{name}`", _meaning(metric.compute), better])
    return _table(["Name", "Meaning", "Better"], rows)


def losses_table() -> str:
    """Return the table of the losses: the meaning of each is its function's docstring."""
    return _table(["Name", "Meaning"], [[f"`{name}`", _meaning(loss)] for name, loss in LOSSES.items()])


def _meaning(function: Callable[..., object]) -> str:
    return " ".join((function.__doc__ or "").split(".")[0].split()).removeprefix("Return ")


TABLES: dict[str, Callable[[], str]] = {
    "datasets": datasets_table,
    "losses": losses_table,
    "metrics": metrics_table,
    "multi_label_metrics": multi_label_metrics_table,
}


def with_tables(text: str) -> str:
    """Return the text of a page with all its tables written anew."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{TABLES[match[2]]()}\n{match[3]}", text)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    for page in sorted(DOCS.rglob("*.md")):
        before = page.read_text(encoding="utf-8")
        after = with_tables(before)
        if after != before:
            page.write_text(after, encoding="utf-8")
            print(f"{page.relative_to(DOCS)}: tables written.")
