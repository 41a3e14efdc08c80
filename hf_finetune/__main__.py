"""`python -m hf_finetune`, for where the command `hf-finetune` is not on the path."""

import sys

from hf_finetune.cli.main import main

sys.exit(main())
