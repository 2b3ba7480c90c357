"""What workflows cost on one core: steps, runs, memory, validation, going on after a crash. `python -m
benchmarks.workflows`; what the figures mean: `docs/how-to/measure.md`."""
