"""What ports are known to do instead: for every step of a forward pass, the variants of it that somebody has written.

A variant is a function with the signature of the step that it replaces, and a label. Where one of them, given the candidate's own
values, makes what the candidate has, it is the explanation. A new one is a few lines in one of the tables of this package.
Most replace one of the pieces that a step calls, by the piece's own signature.

May import replay, the error model and the model files. Start with `table`, then `layers`, whose variants are the smallest.
"""

import reforg.verification.diagnosis.variants.attention
import reforg.verification.diagnosis.variants.blocks
import reforg.verification.diagnosis.variants.classifiers
import reforg.verification.diagnosis.variants.layers
import reforg.verification.diagnosis.variants.patches
import reforg.verification.diagnosis.variants.reorganization
import reforg.verification.diagnosis.variants.shunted
import reforg.verification.diagnosis.variants.shunted_attention  # noqa: F401  each fills the table
from reforg.verification.diagnosis.variants.table import TABLE, Variant, variant

__all__ = ["TABLE", "Variant", "variant"]
