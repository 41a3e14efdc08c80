"""The completion scripts know every command and flag, and bash runs them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hf_finetune.cli import completion
from hf_finetune.cli.commands import COMMANDS
from hf_finetune.cli.completion import SHELLS, completion_script
from hf_finetune.errors import UserError


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_knows_every_command_and_flag(shell: str):
    script = completion_script(shell, COMMANDS.values())
    for command in COMMANDS.values():
        assert command.name in script
        for name in command.parser().flag_names:
            assert f"--{name}" in script, f"{command.name} --{name}"


def completed(script: Path, *words: str) -> list[str]:
    """Returns what bash offers in place of the last word."""
    line = " ".join(f"'{word}'" for word in words)
    code = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; COMPREPLY=();"
        f' _shtab_hf_finetune; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    return subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_bash_completes_commands_flags_and_choices(tmp_path: Path):
    script = tmp_path / "completion.bash"
    script.write_text(completion_script("bash", COMMANDS.values()))
    assert completed(script, "hf-finetune", "tr") == ["train"]
    assert completed(script, "hf-finetune", "train", "--learning") == ["--learning_rate"]
    assert "skip" in completed(script, "hf-finetune", "train", "--on_bad_image", "s")


def test_without_the_optional_package_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'hf-finetune\[completion\]'"):
        completion_script("bash", COMMANDS.values())
