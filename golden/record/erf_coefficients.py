"""Derive the coefficients of `reforg.ops.erf` from the definition of erf, in 50-digit arithmetic.

    python golden/record/erf_coefficients.py        (needs mpmath)

Nothing is fitted to another library: mpmath evaluates the integral, Chebyshev interpolation and a
linearised rational least-squares fit give the coefficients, and the errors printed are measured on a dense
grid in exact arithmetic with the coefficients already rounded to double.
"""

import mpmath as mp

mp.mp.dps = 50
SPLIT, CENTRE, END = 1, 3, 6  # erf by a series below SPLIT; erfc, in (x - CENTRE)/(x + CENTRE), from there to END


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


def rational_fit(top, bottom, end, rounds=12):
    """Numerator and denominator in x^2, lowest first, of erf(x)/x on [0, end]; denominator starts with 1."""
    squares = [mp.mpf(end) ** 2 * (1 - mp.cos(mp.pi * (2 * k + 1) / 800)) / 2 for k in range(400)]
    weight = [mp.sqrt(square) for square in squares]
    for _ in range(rounds):
        rows, right = [], []
        for square, scale in zip(squares, weight, strict=True):
            value = erf_over_x(square)
            rows.append([scale * square**k for k in range(top + 1)] + [-scale * value * square**k for k in range(1, bottom + 1)])
            right.append(scale * value)
        solution = mp.qr_solve(mp.matrix(rows), mp.matrix(right))[0]
        numerator = list(solution[: top + 1])
        denominator = [mp.mpf(1), *solution[top + 1 :]]
        weight = [mp.sqrt(square) / mp.polyval(denominator[::-1], square) for square in squares]
    return numerator, denominator


def report(name, coefficients):
    print(f"{name} = (")
    for value in coefficients:
        print(f"    {float(value)!r},")
    print(")")


def main():
    low, high = mp.mpf(SPLIT - CENTRE) / (SPLIT + CENTRE), mp.mpf(END - CENTRE) / (END + CENTRE)
    near = chebyshev_fit(erf_over_x, 0, SPLIT**2, 12)
    far = chebyshev_fit(erfcx_in_t, low, high, 18)
    top, bottom = rational_fit(5, 5, 4)
    grid = [mp.mpf(END) * k / 3000 for k in range(1, 3001)]
    rounded = {
        key: [mp.mpf(float(value)) for value in values][::-1]
        for key, values in {"near": near, "far": far, "top": top, "bottom": bottom}.items()
    }
    near_error = max(abs(x * mp.polyval(rounded["near"], x * x) / mp.erf(x) - 1) for x in grid if x <= SPLIT)
    far_error = max(
        abs(mp.exp(-x * x) * (mp.polyval(rounded["far"], (x - CENTRE) / (x + CENTRE)) - mp.exp(x * x) * mp.erfc(x)))
        for x in grid
        if x >= SPLIT
    )
    single_error = max(
        abs(x * mp.polyval(rounded["top"], x * x) / mp.polyval(rounded["bottom"], x * x) - mp.erf(x)) for x in grid if x <= 4
    )
    report("NEAR", near), report("FAR", far), report("SINGLE_TOP", top), report("SINGLE_BOTTOM", bottom)
    print("# errors: relative below 1, absolute above, absolute of the single one")
    print("#", *(mp.nstr(error, 3) for error in (near_error, far_error, single_error)))


if __name__ == "__main__":
    main()
