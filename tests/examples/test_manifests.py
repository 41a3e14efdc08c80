"""The manifests for Kubernetes and SkyPilot: their fields, the flags in them, and what their commands do.

The fields are those of the CRDs (kubeflow/training-operator 1.9 and kubeflow/trainer, folder manifests/base/crds), of
Kubernetes' API reference, and of SkyPilot's `sky/utils/schemas.py`, as far as the manifests use them.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch.distributed.run import get_args_parser

from hf_finetune.cli import main as cli
from hf_finetune.config.arguments import build_arguments
from hf_finetune.config.recipe import override
from tests.helpers.processes import REPOSITORY
from tests.helpers.tiny import write_recipe

EXAMPLES = REPOSITORY / "examples"
JOB, (RUNTIME, TRAIN_JOB) = (
    yaml.safe_load((EXAMPLES / "kubernetes/pytorchjob.yaml").read_text()),
    yaml.safe_load_all((EXAMPLES / "kubernetes/trainjob.yaml").read_text()),
)
TASK = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())
REPLICAS = JOB["spec"]["pytorchReplicaSpecs"]
CONTAINER = REPLICAS["Master"]["template"]["spec"]["containers"][0]
TRAINER = TRAIN_JOB["spec"]["trainer"]

POD_FIELDS = {
    "": {"containers", "restartPolicy", "terminationGracePeriodSeconds", "volumes"},
    "containers": {"args", "command", "image", "name", "resources", "volumeMounts"},
    "containers.resources": {"limits", "requests"},
    "containers.volumeMounts": {"mountPath", "name"},
    "volumes": {"emptyDir", "name", "persistentVolumeClaim"},
    "volumes.emptyDir": {"medium", "sizeLimit"},
    "volumes.persistentVolumeClaim": {"claimName"},
}
FIELDS = {
    "PyTorchJob": {
        "": {"pytorchReplicaSpecs", "runPolicy"},
        "runPolicy": {"activeDeadlineSeconds", "cleanPodPolicy"},
        "pytorchReplicaSpecs": {"Master", "Worker"},
        "pytorchReplicaSpecs.Master": {"replicas", "restartPolicy", "template"},
    },
    "TrainingRuntime": {
        "": {"mlPolicy", "template"},
        "mlPolicy": {"numNodes", "torch"},
        "template": {"spec"},
        "template.spec": {"failurePolicy", "replicatedJobs"},
        "template.spec.failurePolicy": {"maxRestarts", "rules"},
        "template.spec.failurePolicy.rules": {"action", "name", "onJobFailureReasons"},
        "template.spec.replicatedJobs": {"name", "template"},
        "template.spec.replicatedJobs.template": {"metadata", "spec"},
        "template.spec.replicatedJobs.template.spec": {"backoffLimit", "podFailurePolicy", "template"},
        "template.spec.replicatedJobs.template.spec.podFailurePolicy.rules": {"action", "onExitCodes"},
        "template.spec.replicatedJobs.template.spec.podFailurePolicy.rules.onExitCodes": {
            "containerName", "operator", "values",
        },
    },
    "TrainJob": {
        "": {"runtimeRef", "trainer"},
        "runtimeRef": {"apiGroup", "kind", "name"},
        "trainer": {"args", "command", "image", "numNodes", "numProcPerNode", "resourcesPerNode"},
        "trainer.resourcesPerNode": {"limits", "requests"},
    },
    "SkyPilot": {
        "": {"name", "num_nodes", "resources", "run", "setup", "volumes", "workdir"},
        "resources": {"accelerators", "cpus", "infra"},
    },
}  # fmt: skip


def at(value: Any, path: str) -> list[Any]:
    """Return what stands at a path of keys, of each item of the lists on the way."""
    found = [value]
    for key in filter(None, path.split(".")):
        found = [item[key] for item in found if key in item]
        found = [part for item in found for part in (item if isinstance(item, list) else [item])]
    return found


@pytest.mark.parametrize(
    ("value", "fields"),
    [
        (JOB["spec"], FIELDS["PyTorchJob"]),
        (RUNTIME["spec"], FIELDS["TrainingRuntime"]),
        (TRAIN_JOB["spec"], FIELDS["TrainJob"]),
        (TASK, FIELDS["SkyPilot"]),
        (REPLICAS["Master"]["template"]["spec"], POD_FIELDS),
        (at(RUNTIME["spec"], "template.spec.replicatedJobs.template.spec.template.spec")[0], POD_FIELDS),
    ],
    ids=["PyTorchJob", "TrainingRuntime", "TrainJob", "SkyPilot", "pod of PyTorchJob", "pod of TrainingRuntime"],
)
def test_fields_are_known_ones(value: Any, fields: dict[str, set[str]]) -> None:
    for path, known in fields.items():
        assert all(set(item) <= known for item in at(value, path)), path


def test_kinds_and_names_fit_together() -> None:
    assert [(item["apiVersion"], item["kind"]) for item in (JOB, RUNTIME, TRAIN_JOB)] == [
        ("kubeflow.org/v1", "PyTorchJob"),
        ("trainer.kubeflow.org/v1alpha1", "TrainingRuntime"),
        ("trainer.kubeflow.org/v1alpha1", "TrainJob"),
    ]
    assert TRAIN_JOB["spec"]["runtimeRef"]["name"] == RUNTIME["metadata"]["name"]
    assert CONTAINER["name"] == "pytorch" and REPLICAS["Worker"] == REPLICAS["Master"]
    for pod in (REPLICAS["Master"], *at(RUNTIME["spec"], "template.spec.replicatedJobs.template.spec")):
        (container,), volumes = pod["template"]["spec"]["containers"], pod["template"]["spec"]["volumes"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in volumes}


def test_a_mistake_is_not_repeated() -> None:
    """Its exit code is 2. The first manifest leaves it to the operator, which repeats 128 and more alone."""
    assert {replica["restartPolicy"] for replica in REPLICAS.values()} == {"ExitCode"}
    job = RUNTIME["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,), failure = job["podFailurePolicy"]["rules"], RUNTIME["spec"]["template"]["spec"]["failurePolicy"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2] and job["backoffLimit"] == 0
    assert failure["rules"][0]["action"] == "FailJobSet"
    assert failure["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # podFailurePolicy asks for it
    assert "job_recovery" not in TASK["resources"]  # SkyPilot repeats no failed job unless it is told to


def flags_of_task() -> list[str]:
    words = shlex.split(TASK["run"].replace("\\\n", " "))
    launcher = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert (REPOSITORY / launcher.training_script).is_file()
    return launcher.training_script_args


@pytest.mark.parametrize("flags", [CONTAINER["args"], TRAINER["args"], flags_of_task()], ids=["v1", "v2", "SkyPilot"])
def test_flags_are_those_of_train(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    recipes: list[Any] = []
    monkeypatch.setattr("hf_finetune.training.choice.find_source", lambda _: None)  # it is on the volume
    monkeypatch.setattr("hf_finetune.training.run.run", lambda recipe, *_, **__: recipes.append(recipe))
    assert cli.main(["train", *flags]) == 0
    build_arguments(override(recipes[0], {"use_cpu": True}))
    assert recipes[0].values["output_dir"].startswith("/shared/")  # the volume


def test_skypilot_reads_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    sky = pytest.importorskip("sky")
    assert sky.Task.from_yaml(str(EXAMPLES / "skypilot.yaml")).num_nodes == 2


# ---- what the commands of the pods do ----


def write_program(folder: Path, program: str) -> None:
    """Write what the pods of a folder run in place of hf-finetune, before the first of them starts."""
    (folder / "hf-finetune").write_text(program)
    (folder / "hf-finetune").chmod(0o755)


def start(command: list[str], folder: Path, *flags: str, **environment: str) -> subprocess.Popen[str]:
    """Start a pod's command with the program of a folder."""
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", **environment}
    return subprocess.Popen(
        [*command, *flags], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 138), (2, 2), (137, 137), (143, 143)])
def test_exit_codes_of_a_pod_of_the_operator(tmp_path: Path, code: int, expected: int) -> None:
    write_program(tmp_path, f"#!/bin/sh\nexit {code}\n")
    assert start(CONTAINER["command"], tmp_path).wait(20) == expected


@pytest.mark.slow
def test_a_pod_hands_sigterm_on_and_waits(tmp_path: Path) -> None:
    program = "#!/bin/sh\ntrap 'sleep 0.3; echo saved; exit 143' TERM\necho begun\nwhile true; do sleep 0.1; done\n"
    write_program(tmp_path, program)
    with start(CONTAINER["command"], tmp_path) as pod:
        assert pod.stdout.readline() == "begun\n"
        time.sleep(0.1)
        pod.send_signal(signal.SIGTERM)
        assert pod.stdout.read() == "saved\n"
    assert pod.returncode == 143


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def variables(kind: str, rank: int, port: int) -> dict[str, str]:
    """Return what the operator of v1, or Trainer v2, puts into the environment of a pod."""
    rank_name, size_name = ("RANK", "WORLD_SIZE") if kind == "v1" else ("PET_NODE_RANK", "PET_NNODES")
    prefix = "" if kind == "v1" else "PET_"
    address = {f"{prefix}MASTER_ADDR": "127.0.0.1", f"{prefix}MASTER_PORT": str(port)}
    return {rank_name: str(rank), size_name: "2", **address, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_two_pods_train_together(kind: str, image_folder: Path, tmp_path: Path) -> None:
    command = (CONTAINER if kind == "v1" else TRAINER)["command"]
    recipe = write_recipe(tmp_path, dataset=str(image_folder), num_train_epochs=1, lr_milestones=None)
    write_program(tmp_path, f'#!/bin/sh\nexec {sys.executable} -m hf_finetune "$@"\n')
    flags = ["--recipe", str(recipe), "--output_dir", str(tmp_path / "output")]

    def begin(*more: str) -> list[subprocess.Popen[str]]:
        port = free_port()
        return [start(command, tmp_path, *flags, *more, **variables(kind, rank, port)) for rank in (0, 1)]

    mistaken, pods = begin("--image_size", "-1"), begin()  # at once: the second of the mistaken waits 5 s for the first
    try:
        printed, silent = (pod.communicate(timeout=200)[0] for pod in pods)
        assert [pod.wait(200) for pod in mistaken] == [2, 2]
    finally:
        for pod in (*mistaken, *pods):  # one waits for the other where that has ended with an error
            pod.kill()
    assert [pod.returncode for pod in pods] == [0, 0], printed + silent
    assert (tmp_path / "output/model.safetensors").is_file() and "test (24 images)" in printed and not silent
