"""Seeing what the pipeline does: counters in shared memory, their exposition, and logs."""
