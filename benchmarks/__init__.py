"""Side-by-side measurements: one module a question, ours against what a user has today and against the limit."""
