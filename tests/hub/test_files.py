"""What leaves the machine with a push: the files that the run wrote, and nothing else."""

from __future__ import annotations

import json
import os

import pytest

from hf_finetune.cli.main import main
from hf_finetune.hub.files import left_out, pushed_files
from hf_finetune.hub.push import push_folder

pytestmark = pytest.mark.slow  # they need a trained network


def test_only_what_the_run_wrote_is_sent(logged_in, folder, tmp_path, logged):
    """Other people's files, links to files and folders, hidden files: named in one line, and not sent."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary.txt").write_text("SECRET of another folder")
    for name in ("id_rsa", "notes.txt", "weights.safetensors", "helper.py", "LICENSE"):
        (folder / name).write_text("SECRET of this folder")
    (folder / ".env").write_text("SECRET=1")
    (folder / "data").mkdir()
    (folder / "data" / "config.json").write_text("SECRET")
    (folder / "system").symlink_to("/etc/passwd")
    (folder / "linked").symlink_to(outside)
    (folder / "training_curve.png").unlink()
    (folder / "training_curve.png").symlink_to(outside / "diary.txt")
    (folder / "metrics.json").unlink()
    (folder / "metrics.json").symlink_to("/no/such/file")
    os.mkfifo(folder / "pipe")
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nA line by hand.\n")

    push_folder(folder, "me/flowers")
    files = logged_in.repositories["me/flowers"].head.files
    assert files.keys() == {
        ".gitattributes", "README.md", "config.json", "confusion_matrix.png", "history.csv", "model.safetensors",
        "preprocessor_config.json", "recipe.yaml", "reliability_diagram.png",
    }  # fmt: skip
    assert not any(b"SECRET" in file.content or b"root:" in file.content for file in files.values())
    assert b"A line by hand." in files["README.md"].content
    (line,) = [line for line in logged if line.startswith("Note: not pushed")]
    assert line == (
        "Note: not pushed, because the run did not write it: .env, .secret, LICENSE, data/, helper.py and 8 more."
    )
    assert left_out(folder)[5:] == [
        "id_rsa", "linked (a link)", "metrics.json (a link)", "notes.txt", "pipe", "system (a link)",
        "training_curve.png (a link)", "weights.safetensors",
    ]  # fmt: skip


def test_shards_and_the_code_that_the_configs_name_are_sent(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "lenet5.LeNet5Config", "AutoModel": "owner/name--theirs.Model"}
    config["custom_pipelines"] = {"image-classification": {"impl": "sixteen_bits.Pipeline"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text('{"auto_map": {"AutoImageProcessor": ["slow.Slow", null]}}')
    sent = {"lenet5.py", "sixteen_bits.py", "slow.py", "model-00001-of-00002.safetensors", "model_int8.onnx"}
    for name in sent | {"theirs.py", "model-1-of-2.safetensors", "Model.onnx"}:
        (folder / name).write_text("")
    assert sent == {path.name for path in pushed_files(folder)} & (sent | {"theirs.py", "model-1-of-2.safetensors"})
    assert left_out(folder) == [".secret", "Model.onnx", "model-1-of-2.safetensors", "theirs.py"]


def test_a_model_that_is_a_link_is_refused(logged_in, folder, tmp_path, capsys):
    (folder / "model.safetensors").rename(tmp_path / "weights")
    (folder / "model.safetensors").symlink_to(tmp_path / "weights")
    assert main(["push", str(folder), "me/flowers"]) == 2
    assert f"{folder}: model.safetensors is a link, and what links point to is not pushed" in capsys.readouterr().err
    assert not logged_in.requests
