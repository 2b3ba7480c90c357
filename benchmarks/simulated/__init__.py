"""The simulated backend: `python -m benchmarks.backend`.

settings    what it is told, from options, a file and PATCH /sim
asked       what a client asks, and how it is refused
slots       who waits, who is worked on, and what becomes of whom
log         how many that were, and each of them
answers     what a client gets, as bytes
replica     one replica over HTTP
control     its control interface
"""
