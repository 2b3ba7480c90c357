"""What a run of the load generator found: `model` is the report itself, the others show it.

model       the report
files       as a JSON file
terminal    on one screen
page        as one HTML file: tables, charts, timeline, curves, plots, parts, render
compare     two runs side by side; metrics
comparison  several gateways before the same scenarios
ablation    what each step of the design brought
facts       what follows from a report: verdict, sums, sentences
units       figures as people read them
errors      what can go wrong
"""
