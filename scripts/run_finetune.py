"""Fine-tunes an image classifier. The same job as `hf-finetune train`, as a file that a launcher can point at.

accelerate launch -q scripts/run_finetune.py --dataset cifar10
torchrun --standalone --nproc_per_node 2 scripts/run_finetune.py --dataset digits --use_cpu
"""

import sys

from hf_finetune.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
