"""Which models exist: their names and configs (`names`, `timm_tags.json`), what was published about them (`published`), the names
of classes (`labels`), weights that need no file (`synthetic`), and what `weights=` may say besides a file's name (`sources`).

May import errors, config and families. Start with `names`: the table of every model.
"""
