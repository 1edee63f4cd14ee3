"""How far an honest port may be off: values that carry the variance of their rounding error, and the comparison with a candidate's.

May import the findings and what stands below the wings. Start with `uncertain`, then `rules`.
"""
