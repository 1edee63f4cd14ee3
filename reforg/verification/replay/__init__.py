"""The reference, step by step, on the candidate's own values: each step reads what the candidate holds and is compared by itself.

May import the error model and the findings. Start with `performing`.
"""
