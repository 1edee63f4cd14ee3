"""exp and GELU of a vector."""

import numpy as np
from numba import njit

from reforg_numpy import coefficients
from reforg_numpy.numba_engine.kernels.simd import fma, larger, power_of_two, smaller, splat

single = np.float32
EXP, ERF_ABOVE, ERF_BELOW = (
    tuple(map(single, values)) for values in (coefficients.EXP, coefficients.ERF_ABOVE, coefficients.ERF_BELOW)
)
ERF_END = single(coefficients.ERF_END)
EXP_END = single(-88.1)  # for which `whole` is -127, and its power of two comes out as 0
BITS = single(1.4426950408889634)  # 1/ln 2
LN2_HIGH, LN2_LOW = single(0.693145751953125), single(1.4286068203094173e-06)  # the first has 15 bits: its multiples are exact
ROUNDER = single(12582912.0)  # 1.5 * 2**23: adding it rounds to a whole number


@njit
def exp(x):
    """The exponential for x <= 0, to 1 unit in the last place, 0 where that is no normal number; NaN stays."""
    inner = larger(splat(EXP_END), x)
    whole = fma(inner, splat(BITS), splat(ROUNDER)) - splat(ROUNDER)
    rest = fma(whole, splat(-LN2_LOW), fma(whole, splat(-LN2_HIGH), inner))
    value = fma(splat(EXP[4]), rest, splat(EXP[3]))
    value = fma(value, rest, splat(EXP[2]))
    value = fma(value, rest, splat(EXP[1]))
    value = fma(value, rest, splat(EXP[0]))
    value = fma(value * rest, rest, rest) + splat(single(1.0))
    return value * power_of_two(whole)


@njit
def gelu(x):
    """x Phi(x), Phi(x) = (1 + erf(x/sqrt(2)))/2, by a quotient of two polynomials in x^2; where that passes 1, it is 1."""
    square = smaller(splat(ERF_END * ERF_END), x * x)
    above = fma(splat(ERF_ABOVE[5]), square, splat(ERF_ABOVE[4]))
    above = fma(above, square, splat(ERF_ABOVE[3]))
    above = fma(above, square, splat(ERF_ABOVE[2]))
    above = fma(above, square, splat(ERF_ABOVE[1]))
    above = fma(above, square, splat(ERF_ABOVE[0]))
    below = fma(splat(ERF_BELOW[5]), square, splat(ERF_BELOW[4]))
    below = fma(below, square, splat(ERF_BELOW[3]))
    below = fma(below, square, splat(ERF_BELOW[2]))
    below = fma(below, square, splat(ERF_BELOW[1]))
    below = fma(below, square, splat(ERF_BELOW[0]))
    erf = larger(splat(single(-1.0)), smaller(splat(single(1.0)), x * above / below))
    half = splat(single(0.5))
    return x * fma(erf, half, half)
