"""Derive the coefficients of the compiled kernels' exponential and normal distribution, in 40-digit arithmetic.

    python golden/record/kernel_coefficients.py        (needs mpmath)

Nothing is fitted to another library: mpmath evaluates the functions. The exponential is interpolated at Chebyshev nodes; the
quotient for the error function, and the polynomial whose hyperbolic tangent it is, are found by weighted least squares, the
weights raised again and again where the error is largest (Lawson). The errors printed are relative, on a dense grid, in exact
arithmetic with coefficients rounded to float32.
"""

import struct

import mpmath as mp

mp.mp.dps = 40
EXP_REACH = mp.log(2) / 2  # what is left of x after a whole power of 2
EXP_DEGREE = 4  # of p in exp(r) = 1 + r + r^2 p(r)
ERF_END = mp.mpf("5.6")  # beyond it erf(x/sqrt(2)) rounds to 1
ERF_DEGREES = 5, 5  # of p and q in erf(x/sqrt(2)) = x p(x^2)/q(x^2)
TANH_DEGREE = 6  # of p in erf(x/sqrt(2)) = tanh(x p(x^2))
POINTS, ROUNDS = 140, 30
GRID = [ERF_END * (1 - mp.cos(mp.pi * (2 * k + 1) / (2 * POINTS))) / 2 for k in range(POINTS)]


def single(value):
    """The nearest float32."""
    return mp.mpf(struct.unpack("f", struct.pack("f", float(value)))[0])


def exp_coefficients():
    """Lowest power first."""
    reach, count = EXP_REACH * mp.mpf("1.01"), EXP_DEGREE + 1
    nodes = [reach * mp.cos(mp.pi * (2 * k + 1) / (2 * count)) for k in range(count)]
    matrix = mp.matrix([[r**power for power in range(count)] for r in nodes])
    return list(mp.lu_solve(matrix, mp.matrix([rest_of_exp(r) for r in nodes])))


def rest_of_exp(r):
    """(exp(r) - 1 - r) / r^2."""
    return mp.mpf(1) / 2 if abs(r) < mp.mpf("1e-15") else (mp.exp(r) - 1 - r) / r**2


def lawson(fit, error):
    """The best of what `fit(weights)` makes, the weights raised where its `error(made, x)` is largest."""
    weights, best = [mp.mpf(1)] * POINTS, None
    for _ in range(ROUNDS):
        made = fit(weights)
        errors = [abs(error(made, x)) for x in GRID]
        if best is None or max(errors) < best[0]:
            best = max(errors), made
        weights = [weight * (value + max(errors) / 1000) for weight, value in zip(weights, errors, strict=True)]
        whole = sum(weights)
        weights = [weight / whole * POINTS for weight in weights]
    return best[1]


def erf_coefficients():
    """P and q, lowest power first, q beginning with 1."""
    top, bottom = ERF_DEGREES
    below = [mp.mpf(1)] * POINTS

    def fit(weights):
        rows, wanted = [], []
        for x, weight, quotient in zip(GRID, weights, below, strict=True):
            value = mp.erf(x / mp.sqrt(2)) / x
            scale = mp.sqrt(weight) / (value * quotient)
            rows.append(
                [scale * x ** (2 * k) for k in range(top + 1)] + [-scale * value * x ** (2 * k) for k in range(1, bottom + 1)]
            )
            wanted.append(scale * value)
        solution = list(mp.lu_solve(mp.matrix(rows), mp.matrix(wanted)))
        p, q = solution[: top + 1], [mp.mpf(1), *solution[top + 1 :]]
        below[:] = [mp.polyval(q[::-1], x * x) for x in GRID]
        return p, q

    return lawson(fit, lambda made, x: quotient_error(*made, x))


def tanh_coefficients():
    """P, lowest power first."""

    def fit(weights):
        rows, wanted = [], []
        for x, weight in zip(GRID, weights, strict=True):
            rest, value = mp.erfc(x / mp.sqrt(2)), mp.erf(x / mp.sqrt(2))
            angle = mp.log((2 - rest) / rest) / 2
            scale = mp.sqrt(weight) * (1 - value**2) * x / value  # of an error of p in tanh(x p)
            rows.append([scale * x ** (2 * k) for k in range(TANH_DEGREE + 1)])
            wanted.append(scale * angle / x)
        return list(mp.lu_solve(mp.matrix(rows), mp.matrix(wanted)))

    return lawson(fit, tanh_error)


def quotient_error(p, q, x):
    return x * mp.polyval(p[::-1], x * x) / mp.polyval(q[::-1], x * x) / mp.erf(x / mp.sqrt(2)) - 1


def tanh_error(p, x):
    return mp.tanh(x * mp.polyval(p[::-1], x * x)) / mp.erf(x / mp.sqrt(2)) - 1


def report(name, coefficients):
    print(f"{name} = ({', '.join(repr(float(value)) for value in coefficients)})")


def main():
    power = exp_coefficients()
    rounded = [single(value) for value in power]
    grid = [EXP_REACH * (2 * mp.mpf(k) / 2000 - 1) for k in range(2001)]
    report("EXP", power)
    print("#", mp.nstr(max(abs((1 + r + r * r * mp.polyval(rounded[::-1], r)) / mp.exp(r) - 1) for r in grid), 3))
    p, q = erf_coefficients()
    near, far = [single(value) for value in p], [single(value) for value in q]
    report("ERF_ABOVE", p), report("ERF_BELOW", q)
    print("#", mp.nstr(max(abs(quotient_error(near, far, ERF_END * k / 3000)) for k in range(1, 3001)), 3))
    p = tanh_coefficients()
    near = [single(value) for value in p]
    report("ERF_TANH", p)
    print("#", mp.nstr(max(abs(tanh_error(near, ERF_END * k / 3000)) for k in range(1, 3001)), 3))


if __name__ == "__main__":
    main()
