"""A folder for PYTHONPATH: what stands in it runs in each program that is measured."""
