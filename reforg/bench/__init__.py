"""`reforg bench`: reforg's programs and their peers, measured in turns, each in a process of its own.

request -> contest (a worker process for each contestant) -> report, plot.
"""
