"""Programs run by kernels that numba compiles: steps as an array of records, which all threads go through together.

May import reforg.plans, the modules of reforg_numpy that no engine owns, NumPy, llvmlite, and numba in the folder `kernels` alone.
Start with `engine`; `records` turns steps into what `kernels` read, `packing` brings weights into their order, and `library` keeps
the compiled kernels from one process to the next.
"""
