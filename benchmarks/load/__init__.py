"""The load generator: `headgate bench`, `python -m benchmarks.load`.

scenario    what is to be run, from TOML
arrivals    when requests arrive
mix         what each of them asks
wire        one attempt over HTTP
retries     what the official clients do after a refusal
ledger      what became of each request
driver      runs the phases
watch       the target's processes, its /metrics, the simulated backend's counts
command     the command line
"""
