"""Soak: an hour of everything at once, at the end of which nothing may have grown, got lost or been left behind.

`make soak`, or `python -m benchmarks.soak [--minutes 60] [--shards 2] [--seed 1]`. What it does and what it fails on:
`docs/how-to/soak.md`.

settings     the configuration, and how it changes
places       the processes: daemon and backend, started and ended
load         what clients ask
troubles     what is done to the daemon meanwhile
lives        what processes hold, by their age; `growth` judges it
verdict      what clients may have seen, and what the log may say
run          all of it, in its time; `progress` shows it, `result` is what comes out
"""
