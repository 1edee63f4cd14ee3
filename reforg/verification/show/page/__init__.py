"""The report as one HTML file: a chart of all errors, tables, and maps of the faults. Start with `document`."""
