"""Odd recipes by the thousand: each is read, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from hf_finetune.config.arguments import argument_fields, build_arguments
from hf_finetune.config.recipe import Recipe, load_recipe, override, read_value, to_yaml
from tests.helpers.fuzzing import EXAMPLES, damaged, fuzz
from tests.helpers.tiny import TINY_RECIPE

KNOWN = argument_fields()
# What reaches outside a recipe: other programs, the network, and processes.
OUTSIDE = ("deepspeed", "fsdp", "fsdp_config", "ddp_backend", "accelerator_config", "use_cpu", "torch_compile_backend")
WORDS = st.sampled_from(
    [
        "seed",
        "optim",
        "_base_",
        "finetune",
        "1e-2",
        "no",
        "null",
        "~",
        "~nobody/x",
        ".",
        "<<",
        "&a",
        "*a",
        "!!int",
        "!!bool",
        "!!float",
        "!!binary",
        "!!timestamp",
        "!!set",
        "!!python/object:os.system",
        "- ",
        "? ",
        ": ",
        "[",
        "]",
        "{",
        "}",
        "|",
        ">",
        "'",
        '"',
        "\n",
        "\n  ",
        "\t",
        "\x00",
        "#",
        "---",
        "...",
        "%YAML 9",
        "=",
        "2024-99-99",
        "1:99",
        "0x",
        "é",
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["yes", "1e400", "-1", 0, -1, 2**70, float("nan"), "cuda:9", "epoch", "steps", "../x"]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)
TEXTS = st.one_of(
    st.lists(WORDS, max_size=12).map("".join),
    st.lists(WORDS, max_size=12).map(" ".join),
    st.lists(st.tuples(st.sampled_from(["seed", "optim", "_base_", "model_config"]), WORDS), max_size=4).map(
        lambda lines: "".join(f"{key}: {word}\n" for key, word in lines)
    ),
    st.text(max_size=60),
    st.builds(lambda text, count: text * count, st.sampled_from(["[", "{a: ", "- ", "? "]), st.integers(0, 4000)),
)
BYTES = st.one_of(
    TEXTS.map(lambda text: text.encode(errors="replace")),
    st.binary(max_size=60),
    damaged(st.just(yaml.safe_dump(TINY_RECIPE).encode())),
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_an_odd_recipe_is_read_or_refused(tmp_path: Path, examples: int):
    path, written = tmp_path / "own.yaml", tmp_path / "written.yaml"

    def check(content: bytes) -> None:
        path.write_bytes(content)
        recipe = load_recipe(path, KNOWN)
        written.write_text(to_yaml(recipe), encoding="utf-8")
        # Not itself: NaN differs from NaN, and is refused later.
        assert not recipe.values or repr(load_recipe(written, KNOWN).values) == repr(recipe.values)

    fuzz(check, BYTES, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_an_odd_flag_is_read_or_refused(examples: int):
    fuzz(lambda text: read_value(text, "--seed"), TEXTS, examples)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_odd_values_are_taken_or_refused(tmp_path: Path, examples: int):
    base = Recipe("odd", {"output_dir": str(tmp_path), "use_cpu": True}, {"output_dir": "x", "use_cpu": "x"})
    keys = sorted(set(KNOWN) - set(OUTSIDE))

    def check(values: dict[str, object]) -> None:
        build_arguments(override(base, values, "own.yaml"))

    fuzz(check, st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3), examples)
