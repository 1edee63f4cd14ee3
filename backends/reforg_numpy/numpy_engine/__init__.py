"""Programs run by NumPy's own calls on views of one array of memory, which are made once.

May import reforg.plans, the modules of reforg_numpy that no engine owns, and NumPy. Start with `engine`; `steps` has a function
for each kind of step, `memory` what these stand on.
"""
