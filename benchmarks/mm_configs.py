"""Count the results of `hf-finetune import-config` for folders of configs, such as those in the wheels of mmcls.

    python -m pip download --no-deps mmcls==0.25.0 mmpretrain==1.2.0
    python -m zipfile -e mmcls-0.25.0-*.whl old
    python -m zipfile -e mmpretrain-1.2.0-*.whl new
    python benchmarks/mm_configs.py old/mmcls/.mim/configs new/mmpretrain/.mim/configs

It prints a table by family: imported completely / with remarks / refused. Anything else stops it with a traceback.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.mmclassification.importer import import_config

WAYS = ("whole", "remarks", "refused")


def count(folder: Path, show: str | None) -> dict[str, Counter[str]]:
    """Return, for each family (subfolder), the number of configs by result; print the lines of the result `show`."""
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(folder.rglob("*.py")):
        relative = path.relative_to(folder)
        if relative.parts[0] == "_base_":
            continue
        try:
            lines = [str(remark) for remark in import_config(path).remarks]
            way = "remarks" if lines else "whole"
        except UserError as error:
            way, lines = "refused", [str(error)]
        families[relative.parts[0]][way] += 1
        if way == show:
            print(*(f"{relative}: {line}" for line in lines), sep="\n")
    families["all"] = sum(families.values(), Counter())
    return families


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="CONFIGS")
    parser.add_argument("--show", choices=WAYS, help="print the lines of every config that ends in this way")
    arguments = parser.parse_args()
    counts = [count(folder, arguments.show) for folder in arguments.folders]
    families = sorted(set().union(*counts) - {"all"})
    for family in (*families, "all"):
        cells = [" / ".join(str(table[family][way]) for way in WAYS) if family in table else "" for table in counts]
        print(f"| {family} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
