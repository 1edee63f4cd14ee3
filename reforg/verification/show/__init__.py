"""What was found, shown: plain text, the terminal, JSON and a page.

May import the findings, and nothing else of the wing. Start with `wording`, which says every figure and place for all of them.
"""
