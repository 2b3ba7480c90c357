"""What a run of the load generator found: `model` is the report itself, the others show it."""
