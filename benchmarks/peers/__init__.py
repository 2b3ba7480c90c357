"""The same load over several gateways in turn: `python -m benchmarks.peers`.

__main__      the command line
run           scenario by scenario, phase by phase, gateway by gateway
plan          what is to be run, and about how long it takes
point         one phase of one scenario before one gateway
together      the reports of a gateway's phases as one
gateway       what a gateway has to be able to do; how one is started, asked and ended
process       processes, ended with everything that they started
interrupt     Ctrl-C, noticed where it does no harm
environment   a gateway's packages, in an environment of their own
backend       the simulated backend behind the gateway
direct, headgate, litellm, vllm_router, tensorzero    the gateways
known         all of them, by name

*.in are the versions that are measured, *.txt the same with all that they need and its hashes.
"""
