"""What ports are known to do instead: for every step of a forward pass, the variants of it that somebody has written.

A variant is a function with the signature of the step that it replaces, and a label. Where one of them, given the candidate's own
values, makes what the candidate has, it is the explanation. A new one is a few lines in one of the tables of this package.
"""

from reforg.verification.variants import attention, blocks, layers, patches, reorganization, shunted
from reforg.verification.variants.table import TABLE, Variant, variant

__all__ = ["TABLE", "Variant", "attention", "blocks", "layers", "patches", "reorganization", "shunted", "variant"]
