"""The report as one HTML file: a chart of all errors, tables, and maps of the faults.

May import findings and `wording`. Start with `document`, which puts together what `chart`, `tables`, `figures` and `map` draw.
"""
