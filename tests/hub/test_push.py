"""Pushing a result to the Hub, over HTTP against a server of the tests' own: what arrives, and what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import constants, snapshot_download
from transformers import pipeline

from hf_finetune.cli.main import main
from hf_finetune.errors import UserError
from hf_finetune.hub import push as publishing
from hf_finetune.hub.push import check_push, push_folder
from tests.helpers.hub_server import HubServer, Repository
from tests.helpers.hub_session import READ_TOKEN, TOKEN, WRONG_TOKEN, fresh_process
from tests.helpers.tiny import write_recipe

LOAD = """
import json, sys
from transformers import pipeline
try:
    pipeline("image-classification", model=sys.argv[1], token=False)
except OSError:
    print("refused without a token")
classifier = pipeline("image-classification", model=sys.argv[1], device="cpu")
print(json.dumps(classifier(sys.argv[2])))
"""


def pushed(server: HubServer) -> Repository:
    (repository,) = server.repositories.values()
    return repository


# ---- what arrives ----


def test_a_run_is_pushed_and_a_fresh_process_loads_it_by_name(logged_in, image_folder, tmp_path, monkeypatch, capsys):
    """Train and push in one process, load in another with an empty cache: the same answer as from the folder."""
    recipe, output = write_recipe(tmp_path, num_train_epochs=1), tmp_path / "flowers"
    words = ["train", "--recipe", str(recipe), "--dataset", str(image_folder), "--output_dir", str(output)]
    words += ["--push_to_hub", "--hub_model_id", "me/flowers", "--hub_private_repo"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(words) == 0
    shown = capsys.readouterr()
    repository = pushed(logged_in)
    commit = repository.head
    assert f"The model is at {logged_in.endpoint}/me/flowers, commit {commit.oid[:7]}." in shown.out

    assert repository.private and [commit.message for commit in repository.commits[1:]] == [
        "Push a model of hf-finetune"
    ]
    assert (output / "checkpoint-5" / "optimizer.pt").is_file()
    shows_data = {"augmented.jpg", "predictions.csv", "report.html"}
    names = {path.name for path in output.iterdir() if path.is_file()} - shows_data
    assert commit.files.keys() - {".gitattributes"} == names
    assert names >= {"model.safetensors", "config.json", "preprocessor_config.json", "README.md", "recipe.yaml"}
    for name in names - {"README.md", "recipe.yaml", "metrics.json"}:
        assert commit.files[name].content == (output / name).read_bytes(), name
    metrics, theirs = (
        json.loads(content)
        for content in ((output / "metrics.json").read_bytes(), commit.files["metrics.json"].content)
    )
    assert metrics["metrics"] == theirs["metrics"] and metrics["per_class"] == theirs["per_class"]
    recipe, theirs = (
        yaml.safe_load(content)
        for content in ((output / "recipe.yaml").read_bytes(), commit.files["recipe.yaml"].content)
    )
    # Where the images and the result lie on this machine is nobody's affair.
    assert recipe.pop("dataset") == str(image_folder) and theirs.pop("dataset") == f".../{image_folder.name}"
    assert recipe.pop("output_dir") == str(output) and theirs.pop("output_dir") == "~/flowers"
    assert recipe == theirs
    for name, file in commit.files.items():
        assert str(tmp_path.parent).encode() not in file.content, name
    assert commit.files["model.safetensors"].lfs_oid is not None and commit.files["config.json"].lfs_oid is None
    card = commit.files["README.md"].content.decode()
    assert 'pipeline("image-classification", model="me/flowers")' in card
    assert TOKEN not in "".join([shown.out, shown.err, card, (output / "recipe.yaml").read_text()])

    image = str(next((image_folder / "test" / "red").iterdir()))
    (tmp_path / "home").mkdir()
    loaded = fresh_process(logged_in, tmp_path / "home", "-c", LOAD, "me/flowers", image, token=TOKEN)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    refusal, answer = loaded.stdout.splitlines()
    assert refusal == "refused without a token"
    by_folder = pipeline("image-classification", model=str(output), device="cpu")(image)
    assert len(by_folder) == 3 and json.loads(answer) == [
        {"label": entry["label"], "score": pytest.approx(entry["score"], abs=1e-6)} for entry in by_folder
    ]
    assert any((tmp_path / "home" / "hub" / "models--me--flowers" / "snapshots" / commit.oid).iterdir())


def test_what_only_a_resume_needs_stays_at_home(logged_in, folder, tmp_path):
    push_folder(folder, "me/flowers")
    copy = Path(snapshot_download("me/flowers", cache_dir=tmp_path / "cache"))
    assert (copy / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert {path.name for path in copy.iterdir()} == {
        ".gitattributes", "README.md", "config.json", "confusion_matrix.png", "history.csv", "metrics.json",
        "model.safetensors", "preprocessor_config.json", "recipe.yaml", "reliability_diagram.png", "training_curve.png",
    }  # fmt: skip
    assert not pushed(logged_in).private


def test_a_second_push_of_the_same_changes_nothing(logged_in, folder, capsys):
    assert main(["push", str(folder), "me/flowers"]) == 0
    head = pushed(logged_in).head.oid
    assert main(["push", str(folder), "flowers"]) == 0  # one's own name needs no owner
    assert "already has all files of" in capsys.readouterr().out
    assert len(pushed(logged_in).commits) == 2 and pushed(logged_in).head.oid == head

    (folder / "recipe.yaml").write_text("seed: 1\n")
    uploads = [request for request in logged_in.requests if request.startswith("PUT")]
    assert len(uploads) == 4  # the weights and three plots
    assert main(["push", str(folder), "me/flowers"]) == 0
    assert f"commit {pushed(logged_in).head.oid[:7]}" in capsys.readouterr().out
    assert pushed(logged_in).head.files["recipe.yaml"].content == b"seed: 1\n"
    assert len(pushed(logged_in).commits) == 3
    assert [request for request in logged_in.requests if request.startswith("PUT")] == uploads


def test_an_organization_and_a_repository_that_was_there_before(logged_in, folder):
    push_folder(folder, "team/flowers", private=True)
    logged_in.repositories["team/flowers"].private = False
    with pytest.raises(UserError, match="team/flowers exists and is public"):
        push_folder(folder, "team/flowers", private=True)
    assert len(pushed(logged_in).commits) == 2


# ---- what is found before training ----


def test_a_wrong_token_is_one_line_before_training(logged_in, image_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", WRONG_TOKEN)
    words = ["train", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder)]
    words += ["--output_dir", str(tmp_path / "output"), "--push_to_hub", "--hub_model_id", "me/flowers"]
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("hf-finetune: error: The Hub at ") and captured.err.count("\n") == 1
    assert "does not accept the token in HF_TOKEN" in captured.err
    assert f"hf-finetune push {tmp_path / 'output'} me/flowers" in captured.err
    assert WRONG_TOKEN not in captured.out + captured.err
    assert not (tmp_path / "output").exists() and "Data:" not in captured.out and not logged_in.repositories


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("me/my flowers", TOKEN, '"me/my flowers" cannot be the name of a repository'),
        ("me/flowers/red", TOKEN, "use OWNER/NAME"),
        ("me/flowers", None, "There is no token for the Hub; log in with: hf auth login"),
        ("me/flowers", "hf_\x07bell", "The token for the Hub has characters that no token has"),
        ("me/flowers", READ_TOKEN, "does not let this token create me/flowers; use a token that may write there"),
        ("others/flowers", TOKEN, "does not let this token create others/flowers"),
        ("others/public", TOKEN, "does not let this token write: You don't have the required permissions"),
    ],
)
def test_what_cannot_be_pushed_is_refused_at_once(logged_in, tmp_path, monkeypatch, repo_id, token, message):
    logged_in.repositories["others/public"] = Repository(private=False)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UserError) as caught:
        check_push(repo_id, tmp_path / "output", sleep=never)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert token is None or token not in str(caught.value)
    assert logged_in.repositories.keys() == {"others/public"}


def test_a_run_that_fails_leaves_no_repository(logged_in, image_folder, tmp_path, capsys):
    """The right to write is asked for before training, and nothing is created before there is something to push."""
    words = ["train", "--recipe", str(write_recipe(tmp_path)), "--dataset", str(image_folder)]
    words += ["--output_dir", str(tmp_path / "output"), "--push_to_hub", "--hub_model_id", "me/flowers"]
    assert main([*words, "--num_labels", "7"]) == 2
    assert "Hub: the model will be pushed to" in capsys.readouterr().out
    assert not logged_in.repositories and all(request.startswith("GET") for request in logged_in.requests)


@pytest.mark.parametrize(
    ("repository", "scoped", "may"),
    [
        ("me/flowers", [("me", ["repo.content.read", "repo.write"])], True),
        ("team/flowers", [("team", ["repo.write"]), ("me", ["repo.content.read"])], True),
        ("me/flowers", [("team", ["repo.write"]), ("me", ["repo.content.read"])], False),
        ("me/flowers", [("me/other", ["repo.write"])], False),
    ],
)
def test_what_a_fine_grained_token_may_create(repository, scoped, may):
    """The answer of whoami for such a token, as the Hub gives it."""
    scopes = [{"entity": {"type": "user", "name": name}, "permissions": rights} for name, rights in scoped]
    token = {"role": "fineGrained", "fineGrained": {"global": [], "scoped": scopes}}
    account = {"name": "me", "orgs": [{"name": "team", "roleInOrg": "write"}], "auth": {"accessToken": token}}
    assert publishing._may_create(account, repository) is may


@pytest.mark.parametrize(("role", "may"), [("read", False), ("contributor", True), ("write", True), ("admin", True)])
def test_what_a_member_of_an_organization_may_create(role, may):
    account = {"name": "me", "orgs": [{"name": "team", "roleInOrg": role}], "auth": {"accessToken": {"role": "write"}}}
    assert publishing._may_create(account, "team/flowers") is may
    assert publishing._may_create(account, "me/flowers") and not publishing._may_create(account, "others/flowers")


def test_a_name_for_what_is_not_pushed_is_told(tmp_path, capsys):
    for flag, value in (("hub_model_id", "me/flowers"), ("hub_private_repo", "true")):
        assert main(["train", "--recipe", str(write_recipe(tmp_path)), f"--{flag}", value]) == 2
        error = capsys.readouterr().err
        assert f"{flag} is set, but nothing is pushed; use --push_to_hub, or --{flag} null." in error


def test_the_repository_is_named_after_the_folder(logged_in, tmp_path, capsys):
    assert check_push(None, tmp_path / "tulips") == "me/tulips"
    assert capsys.readouterr().out == f"Hub: the model will be pushed to {logged_in.endpoint}/me/tulips\n"
    with pytest.raises(UserError, match='"red tulips" cannot be the name .*; use --hub_model_id OWNER/NAME'):
        check_push(None, tmp_path / "red tulips")


def test_a_token_and_what_is_not_done_are_no_flags(capsys):
    for flag in ("--hub_token", "--hub_strategy"):
        assert main(["train", "--dataset", "digits", flag, "hf_secret"]) == 2
        error = capsys.readouterr().err
        assert f"There is no flag {flag} here" in error and "hf_secret" not in error


# ---- a server that is down ----


def never(seconds: float) -> None:
    raise AssertionError("nothing is to wait for here")


def test_a_server_that_is_down_for_a_while_is_waited_for(logged_in, folder, logged):
    for pattern in ("/api/whoami-v2", "/api/repos/create", "/commit/"):
        logged_in.fail(pattern, times=2)
    logged_in.fail("/api/validate-yaml", status=502, times=1)  # whose answer the client reads as JSON
    pauses: list[float] = []
    push_folder(folder, "me/flowers", sleep=pauses.append)
    assert pauses == [2, 4] * 2 + [2, 4, 8]
    assert logged[0] == f"The Hub at {logged_in.endpoint} answers 503, Service Unavailable; next try in 2 s."
    assert logged[-1].startswith("The model is at") and len(pushed(logged_in).commits) == 2


def test_patience_ends_with_the_minute_where_each_try_takes_long(monkeypatch):
    """Some of the client's calls pause for 23 seconds by themselves before they fail."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(publishing, "time", clock)

    def take(seconds: float, error: Exception | None = None) -> None:
        clock.now += seconds
        if error is not None:
            raise error

    with pytest.raises(publishing._PushError, match="cannot be reached \\(refused\\)"):
        publishing._retry(lambda: take(23, TransportError("refused")), sleep=take)
    assert clock.now == 23 + 2 + 23 + 4 + 23


def test_a_commit_whose_answer_is_lost_is_not_made_twice(logged_in, folder, monkeypatch, logged):
    commit = publishing.HfApi.create_commit
    pauses: list[float] = []

    def lose_answer(*arguments, **keywords):
        answer = commit(*arguments, **keywords)
        if not pauses:
            raise TransportError("Server disconnected")
        return answer

    monkeypatch.setattr(publishing.HfApi, "create_commit", lose_answer)
    push_folder(folder, "me/flowers", sleep=pauses.append)
    assert pauses == [2] and len(pushed(logged_in).commits) == 2
    assert logged[-1].startswith("The model is at")


class TransportError(Exception):
    """Called as httpx calls the base of its own."""


@pytest.mark.parametrize("down", [503, None])
def test_a_server_that_stays_down_leaves_the_folder_whole(logged_in, folder, monkeypatch, capsys, down):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    logged_in.fail("/commit/")
    if down is None:  # nobody listens at this port
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    pauses: list[float] = []
    with pytest.raises(UserError) as caught:
        push_folder(folder, "me/flowers", private=True, sleep=pauses.append)
    reason = "answers 503, Service Unavailable" if down else "cannot be reached"
    later = f"The model is safe in {folder}; to push it later: hf-finetune push {folder} me/flowers --hub_private_repo"
    assert reason in str(caught.value) and str(caught.value).endswith(later) and "\n" not in str(caught.value)
    assert pauses == [2, 4, 8, 16, 24]
    assert capsys.readouterr().out.count("next try in") == 5
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_server_that_is_down_before_training_is_told(logged_in, tmp_path, monkeypatch):
    logged_in.fail(times=6)
    with pytest.raises(UserError) as caught:
        check_push("me/flowers", tmp_path / "output", sleep=lambda seconds: None)
    later = "To train without pushing, leave out --push_to_hub; to push the model later: hf-finetune push"
    assert f"answers 503, Service Unavailable. {later} {tmp_path}/output me/flowers" in str(caught.value)
    assert not logged_in.repositories
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so nothing is sent to the Hub; unset it"):
        check_push("me/flowers", tmp_path / "output", sleep=never)


def test_a_server_that_never_answers_is_given_up(logged_in, folder, monkeypatch):
    logged_in.fail("/api/whoami-v2", status=0)  # no answer at all
    monkeypatch.setattr(publishing, "_ANSWER_TIMEOUT", 0.1)
    with pytest.raises(UserError, match="cannot be reached \\(timed out\\).* The model is safe in"):
        push_folder(folder, "me/flowers", sleep=lambda seconds: None)


def test_a_run_whose_push_fails_ends_whole_and_is_pushed_later(logged_in, image_folder, tmp_path, monkeypatch, capsys):
    """The push of a run that has trained fails for good: exit code 2, and the command that it names does the rest."""
    monkeypatch.setattr(publishing, "_PAUSES", (0.01, 0.02))
    logged_in.fail("/commit/")
    output = tmp_path / "tulips"
    words = ["train", "--recipe", str(write_recipe(tmp_path, num_train_epochs=1)), "--dataset", str(image_folder)]
    assert main([*words, "--output_dir", str(output), "--push_to_hub"]) == 2
    captured = capsys.readouterr()
    assert "test (24" in captured.out and TOKEN not in captured.out + captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("hf-finetune: error:")]
    assert line.endswith(f"The model is safe in {output}; to push it later: hf-finetune push {output} me/tulips")
    assert len(json.loads((output / "metrics.json").read_text())["per_class"]) == 3

    logged_in.failures.clear()
    assert main(line.split("hf-finetune ")[-1].split()) == 0
    assert pushed(logged_in).head.files["metrics.json"].content == (output / "metrics.json").read_bytes()


def test_a_folder_without_model_is_not_pushed(logged_in, tmp_path, capsys):
    assert main(["push", str(tmp_path), "me/flowers"]) == 2
    assert f"{tmp_path} holds no model; use the folder of a finished run." in capsys.readouterr().err
    assert not logged_in.requests
