"""`make bench-overload`: what is left of a backend's capacity when too much is asked, target beside measured.

trials      which loads are run, each before a Headgate of its own with a configuration of its own
store       a vector store that takes its time, for clients that leave while passages are looked for
trial       one of them, from start to report
rows        the table's rows; each makes its lines from the reports of its trials: serving, recovering, lasting, cost
ablation    the same loads with one mechanism after the other switched on
run         all that is asked for, in turn
page        all of it as one HTML file, and on the terminal
"""
