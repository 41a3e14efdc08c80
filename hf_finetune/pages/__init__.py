"""Pages for people: HTML files that hold all they show and need no network."""
