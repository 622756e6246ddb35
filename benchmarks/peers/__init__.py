"""Other toolkits, each run by a script in an environment of its own: nothing here is imported by us."""
