"""Is this port right, and if not, which operation is wrong, and why?

May import models and what stands below them. Inside, each folder imports those to its left: `findings`, `error_model`,
`candidate` and `replay`, `diagnosis`, `show`, `report`, `verifier`. Start with `verifier.verify`.
"""
