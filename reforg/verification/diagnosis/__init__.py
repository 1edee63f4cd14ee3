"""From differences to causes: units replayed under assumptions, and known variants in the place of steps.

May import the replay and what stands below it. Start with `diagnosis`.
"""
