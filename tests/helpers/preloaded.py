"""What a process that forks others imports before it does, as the commands import it."""

from hf_finetune.cli.command import importing

with importing():
    import hf_finetune.jobs.evaluate
    import hf_finetune.training.frozen.probe
    import hf_finetune.training.run  # noqa: F401

import tests.helpers.trainers  # noqa: F401
