"""What was found, shown: plain text, the terminal, JSON and a page.

May import findings, errors and files: nothing that computes what is found.
Start with `wording`, which says every figure and place for all of them.
"""
