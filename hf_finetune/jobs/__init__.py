"""The corridors: one file a verb, each a job from top to bottom over all the rooms."""
