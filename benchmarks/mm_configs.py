"""Counts how `hf-finetune import-config` imports folders of configs, such as those in MMClassification's wheels.

    python -m pip download --no-deps mmcls==0.25.0 mmpretrain==1.2.0
    python -m zipfile -e mmcls-0.25.0-*.whl old
    python -m zipfile -e mmpretrain-1.2.0-*.whl new
    python benchmarks/mm_configs.py old/mmcls/.mim/configs new/mmpretrain/.mim/configs

It prints a table by family: imported whole / with remarks / refused. Any other error stops it with a traceback.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.importer import import_config

OUTCOMES = ("whole", "remarks", "refused")


def count(folder: Path, show: str | None) -> dict[str, Counter[str]]:
    """Count the configs of each family (subfolder) by their outcome, and print the lines of the outcome `show`."""
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if relative.parts[0] == "_base_":
            continue
        try:
            lines = [str(remark) for remark in import_config(path).remarks]
            outcome = "remarks" if lines else "whole"
        except UserError as error:
            outcome, lines = "refused", [str(error)]
        families[relative.parts[0]][outcome] += 1
        if outcome == show:
            print(*(f"{relative}: {line}" for line in lines), sep="\n")
    families["all"] = sum(families.values(), Counter())
    return families


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="CONFIGS")
    parser.add_argument("--show", choices=OUTCOMES, help="print the lines of every config with this outcome")
    arguments = parser.parse_args()
    counts = [count(folder, arguments.show) for folder in arguments.folders]
    families = sorted(set().union(*counts) - {"all"})
    for family in (*families, "all"):
        cells = [
            " / ".join(str(table[family][outcome]) for outcome in OUTCOMES) if family in table else ""
            for table in counts
        ]
        print(f"| {family} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
