"""A model as a web page and an HTTP endpoint."""
