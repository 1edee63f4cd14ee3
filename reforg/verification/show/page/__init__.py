"""The report as one HTML file: a chart of all errors, tables, and maps of the faults.

May import the findings and the wording. Start with `document`.
"""
