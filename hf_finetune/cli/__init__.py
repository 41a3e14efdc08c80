"""The command line: `hf-finetune COMMAND ...`."""
