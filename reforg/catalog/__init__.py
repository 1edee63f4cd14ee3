"""Which models exist: their names and configs, what was published about them, class names, synthetic weights.

May import errors, config and families. Start with `names`: the table of every model.
"""
