"""What several shards cost, and what happens to requests when one is killed, replaced or configured anew.

`python -m benchmarks.shards [--quick] [--only NAME]... [--json FILE]`; part of `make bench`. What the table means:
`docs/how-to/measure.md`.

rows        a figure beside its target
daemon      the daemon that is measured, and what it says of its shards
clients     connections of which it is known who accepted them, and load over them
cost        CPU of two shards beside one; of a shard while metrics are rendered
latency     what a relayed request takes longer than one that is not
faults      a killed shard
changes     reloads and a rolling replacement
"""
