"""Derive the coefficients of `reforg.ops.erf` from the definition of erf, in 50-digit arithmetic.

    python golden/record/erf_coefficients.py        (needs mpmath)

Nothing is fitted to another library: mpmath evaluates the integral, Chebyshev interpolation and Remez' exchange give
the coefficients, and the errors printed are measured on a dense grid in exact arithmetic with the coefficients already
rounded to double.
"""

import mpmath as mp

mp.mp.dps = 50
SPLIT, CENTRE, END = 1, 3, 6  # erf by a series below SPLIT; erfc, in (x - CENTRE)/(x + CENTRE), from there to END
SINGLE_END = mp.mpf("4.2")  # where erf is within 3e-9 of 1, a tenth of float32's rounding


def chebyshev_fit(function, low, high, degree):
    """Monomial coefficients, lowest first, of the polynomial that interpolates at the Chebyshev nodes."""
    middle, half = mp.mpf(low + high) / 2, mp.mpf(high - low) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * k + 1) / (2 * degree + 2)) for k in range(degree + 1)]
    vandermonde = mp.matrix([[x**power for power in range(degree + 1)] for x in nodes])
    return list(mp.lu_solve(vandermonde, mp.matrix([function(x) for x in nodes])))


def erf_over_x(square):
    x = mp.sqrt(square)
    return mp.erf(x) / x if x else 2 / mp.sqrt(mp.pi)


def erfcx_in_t(t):
    x = CENTRE * (1 + t) / (1 - t)
    return mp.exp(x * x) * mp.erfc(x)


def artanh_of_erf_over_x(x):
    return mp.atanh(mp.erf(x)) / x


def sensitivity(x):
    """How much of a change of artanh(erf(x))/x arrives in erf(x), relative to erf(x)."""
    return x * (1 - mp.erf(x) ** 2) / mp.erf(x)


def remez_fit(degree, end, points=1200, rounds=12):
    """Polynomial in x^2, lowest first, for artanh(erf(x))/x on (0, end], whose tanh(x p(x^2)) is relatively nearest to erf."""
    grid = [mp.mpf(end) * (1 - mp.cos(mp.pi * (2 * k + 1) / (2 * points))) / 2 for k in range(points)]
    values, weights = [artanh_of_erf_over_x(x) for x in grid], [sensitivity(x) for x in grid]
    chosen = [round((points - 1) * (1 - mp.cos(mp.pi * k / (degree + 1))) / 2) for k in range(degree + 2)]
    for _ in range(rounds):
        rows = [[grid[i] ** (2 * k) for k in range(degree + 1)] + [(-1) ** n / weights[i]] for n, i in enumerate(chosen)]
        solution = list(mp.lu_solve(mp.matrix(rows), mp.matrix([values[i] for i in chosen])))
        errors = [w * (v - mp.polyval(solution[-2::-1], x * x)) for x, v, w in zip(grid, values, weights, strict=True)]
        chosen = alternating(errors, degree + 2)
    return solution[:-1]


def alternating(errors, count):
    """Indices of `count` extremes in a row whose signs alternate, the largest of all among them."""
    runs = []
    for index, error in enumerate(errors):
        if runs and error * errors[runs[-1]] > 0:
            runs[-1] = max(runs[-1], index, key=lambda i: abs(errors[i]))
        else:
            runs.append(index)
    while len(runs) > count:
        runs.pop(0 if abs(errors[runs[0]]) < abs(errors[runs[-1]]) else -1)
    return runs


def report(name, coefficients):
    print(f"{name} = (")
    for value in coefficients:
        print(f"    {float(value)!r},")
    print(")")


def main():
    low, high = mp.mpf(SPLIT - CENTRE) / (SPLIT + CENTRE), mp.mpf(END - CENTRE) / (END + CENTRE)
    near = chebyshev_fit(erf_over_x, 0, SPLIT**2, 12)
    far = chebyshev_fit(erfcx_in_t, low, high, 18)
    single = remez_fit(6, SINGLE_END)
    grid = [mp.mpf(END) * k / 3000 for k in range(1, 3001)]
    rounded = {
        key: [mp.mpf(float(value)) for value in values][::-1]
        for key, values in {"near": near, "far": far, "single": single}.items()
    }
    near_error = max(abs(x * mp.polyval(rounded["near"], x * x) / mp.erf(x) - 1) for x in grid if x <= SPLIT)
    far_error = max(
        abs(mp.exp(-x * x) * (mp.polyval(rounded["far"], (x - CENTRE) / (x + CENTRE)) - mp.exp(x * x) * mp.erfc(x)))
        for x in grid
        if x >= SPLIT
    )
    single_error = max(abs(mp.tanh(x * mp.polyval(rounded["single"], x * x)) / mp.erf(x) - 1) for x in grid if x <= SINGLE_END)
    report("NEAR", near), report("FAR", far), report("SINGLE", single)
    print("# errors: relative below 1, absolute above, relative of the single one")
    print("#", *(mp.nstr(error, 3) for error in (near_error, far_error, single_error)))


if __name__ == "__main__":
    main()
