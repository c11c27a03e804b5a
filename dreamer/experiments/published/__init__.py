"""Published returns of other methods, drawn behind own runs and compared with them (`dreamer compare`).

curves         the curves of curves.csv.gz, whose sources and protocols README.md states
compare        `dreamer compare`: a table of own and published returns at the same step
"""
