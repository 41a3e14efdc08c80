"""The report of a run: tables of its answers and its history, and the page that shows them."""
