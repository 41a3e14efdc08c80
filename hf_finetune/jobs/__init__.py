"""What the commands do: one file for each, a job from top to bottom."""
