"""What was found, shown: plain text, the terminal, JSON and a page. Reads findings and nothing else.

Start with `wording`, which says every figure and place for all of them.
"""
