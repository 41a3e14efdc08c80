"""The names of the files in the folder of a run that several packages know."""

RECIPE_FILE = "recipe.yaml"
METRICS_FILE = "metrics.json"  # written last: a folder that has it holds a finished run
