"""Counts what `hf-finetune import-config` makes of a whole configs folder, such as the one in a wheel of mmpretrain.

python -m pip download --no-deps mmpretrain==1.2.0
python -m zipfile -e mmpretrain-1.2.0-*.whl wheel
python benchmarks/mm_configs.py wheel/mmpretrain/.mim/configs
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from pathlib import Path

from hf_finetune.errors import UserError
from hf_finetune.importing.importer import import_config


def count(folder: Path, show: str = "") -> dict[str, Counter[str]]:
    """Returns, for each family (subfolder), how many configs end in which way; prints the lines of the way `show`."""
    families: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(folder.rglob("*.py")):
        family = path.relative_to(folder).parts[0]
        if family == "_base_":
            continue
        try:
            draft = import_config(path)
            way, lines = ("with remarks", map(str, draft.remarks)) if draft.remarks else ("whole", [])
        except UserError as error:
            way, lines = "refused", [str(error)]
        except Exception as error:
            way, lines = "traceback", [f"{type(error).__name__}: {error}"]
        families[family][way] += 1
        if way == show:
            print(*(f"{path.relative_to(folder)}: {line}" for line in lines), sep="\n")
    return families


if __name__ == "__main__":
    ways = ("whole", "with remarks", "refused", "traceback")
    result = count(Path(sys.argv[1]), *sys.argv[2:3])
    print(f"| Family | {' | '.join(ways)} |\n| --- |{' ---: |' * len(ways)}")
    for family, counts in [*sorted(result.items()), ("all", sum(result.values(), Counter()))]:
        print(f"| {family} | {' | '.join(str(counts[way]) for way in ways)} |")
