"""Polynomials of the kernels in float32, from golden/record/kernel_coefficients.py; lowest power first."""

EXP = (0.5, 0.16666573381900845, 0.04166655011030512, 0.008363773874405574, 0.0013926926614021907)
"""p of exp(r) = 1 + r + r^2 p(r) for |r| <= ln(2)/2; relative error 8e-9."""

ERF_ABOVE = (
    0.7978845441266621, 0.0678445917894765, 0.009353659209505531, 0.00033769428166194164, 1.2576113971206883e-05,
    4.459095839300717e-08,
)  # fmt: skip
ERF_BELOW = (
    1.0, 0.25169691781973574, 0.028673428544880454, 0.001885028562313819, 7.331185698279929e-05, 1.1794723306636663e-06,
)  # fmt: skip
"""p and q of erf(x/sqrt(2)) = x p(x^2)/q(x^2) for |x| <= ERF_END; relative error 5e-8."""

ERF_TANH = (
    0.7978846360087216, 0.03633435028763912, -3.391298740061218e-05, -5.478127616031394e-05, 3.873025283946999e-06,
    -1.2525857196813415e-07, 1.5674585305314569e-09,
)  # fmt: skip
"""p of erf(x/sqrt(2)) = tanh(x p(x^2)) for |x| <= ERF_END, relative error 1.1e-7; beyond, x p(x^2) grows on, and so to 1."""

ERF_END = 5.6
"""Beyond it erf(x/sqrt(2)) rounds to 1, and the quotient at it, times x, passes 1, as does the hyperbolic tangent."""
