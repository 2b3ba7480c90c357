"""Workflows: directed graphs of steps, declared in YAML, JSON or Python, journalled, and run by one engine.

    text → source → definition → plan → engine ⇄ journal
                                          │
                                          steps/ → prompts (the pipeline's own door), knowledge, hosts, files

`definition` says what can be written, `source` reads it, `plan` checks it and orders its steps, `templates` fills in
values, `engine` runs plans, `journal` remembers what happened, `client` talks to a daemon that runs them.
"""
