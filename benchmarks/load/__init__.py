"""The load generator: `headgate bench`, `python -m benchmarks.load`.

command         the command line
running         around a measurement: signals, files, exit status
session         one measurement, from its first request to its report
scenario        what is to be run; `reading` and `check` make it from TOML
arrivals        when requests arrive; `trace` reads recorded ones
mix, words      what each of them asks
driver          runs the phases
wire            one attempt over HTTP; its `answer`
retries         what the official clients do after a refusal
capacity        finds what the target can do
ledger, lag     what became of each request; how late the generator was
accounting      the clients' counts beside the target's and the backend's
scrape, processes, backend_client, environment    what is seen from outside
assemble        from all that to the report; `remarks` are its notes
"""
