"""`reforg bench`: reforg's programs and their peers, measured in turns, each in a process of its own.

request -> contest (a worker process for each contestant) -> report, plot.
May import models and what stands below them. Start with `contest`, whose `run` is the whole of it; `worker` is the other process.
"""
