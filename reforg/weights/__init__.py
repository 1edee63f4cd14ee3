"""Files to weights: read (`checkpoints`, `hub`), respelled (`spellings`), fitted to a config (`fitting`), and written.

May import images, the catalog and what stands below them. Start with `loading`, then `fitting`.
"""
