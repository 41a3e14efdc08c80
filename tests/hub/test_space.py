"""A Space that is written runs the model that was pushed, as `pipeline` does."""

from __future__ import annotations

import runpy
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from huggingface_hub import SpaceCard
from transformers import pipeline

from hf_finetune.cli.main import main
from hf_finetune.errors import UserError
from hf_finetune.hub.push import push_folder
from hf_finetune.hub.space import write_space
from hf_finetune.models.lenet5 import LeNet5Config, LeNet5ForImageClassification


class Gradio(ModuleType):
    """What app.py uses of Gradio: keeps the function instead of showing it."""

    def __init__(self) -> None:
        super().__init__("gradio")
        self.Image = self.Label = lambda **settings: SimpleNamespace(**settings)
        self.Error = ValueError

    def Interface(self, function, image, label, **settings):
        return SimpleNamespace(classify=function, image=image, **settings)


def test_the_app_answers_as_pipeline_does(logged_in, folder, image_folder, tmp_path, monkeypatch, capsys):
    push_folder(folder, "me/flowers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "flowers").rename("kept")
    assert main(["space", "me/flowers"]) == 0
    written = tmp_path / "flowers-space"
    assert "hf upload me/flowers-space flowers-space . --repo-type space" in capsys.readouterr().out
    assert {path.name for path in written.iterdir()} == {"README.md", "app.py", "requirements.txt"}

    monkeypatch.setitem(sys.modules, "gradio", Gradio())
    demo = runpy.run_path(str(written / "app.py"))["demo"]
    image = str(next((image_folder / "test" / "red").iterdir()))
    expected = pipeline("image-classification", model="kept", device="cpu")(image)
    assert demo.classify(image) == {entry["label"]: pytest.approx(entry["score"], abs=1e-6) for entry in expected}
    assert demo.image.image_mode is None and demo.image.type == "filepath"
    with pytest.raises(ValueError, match="Choose an image"):
        demo.classify(None)

    card = SpaceCard.load(written / "README.md")
    assert card.data.models == ["me/flowers"] and card.data.sdk == "gradio" and card.data.app_file == "app.py"
    card.validate()
    lines = (written / "requirements.txt").read_text().splitlines()
    assert f"transformers=={metadata.version('transformers')}" in lines and not any("+" in line for line in lines)


def test_code_that_the_space_runs_is_named(logged_in, tmp_path, capsys):
    LeNet5ForImageClassification(LeNet5Config(num_labels=3)).save_pretrained(tmp_path / "tulip")
    push_folder(tmp_path / "tulip", "me/tulip")
    main(["space", "me/tulip", "--output", str(tmp_path / "space")])
    assert "app.py runs code that comes with the weights of me/tulip" in capsys.readouterr().out
    assert 'model="me/tulip", trust_remote_code=True)' in (tmp_path / "space" / "app.py").read_text()


def test_mistakes_are_one_line(logged_in, folder, tmp_path):
    with pytest.raises(UserError, match="push it first: hf-finetune push FOLDER OWNER/NAME"):
        write_space(str(folder))
    with pytest.raises(UserError, match="me/nothing cannot be had from the Hub: "):
        write_space("me/nothing", tmp_path / "space")
    assert not Path(tmp_path / "space").exists()
    with pytest.raises(UserError, match="is there already; use another --output"):
        write_space("me/flowers", folder)
