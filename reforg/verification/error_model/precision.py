"""In which formats a port computes: what its products read, what they return, what is stored, in what sums are formed."""

from dataclasses import dataclass

from reforg.errors import ConfigError, nearest

# Bits of the significand, with the leading one; the exponent of the smallest normal number.
FORMATS = {"float64": (53, -1022), "float32": (24, -126), "tf32": (11, -126), "bfloat16": (8, -126), "float16": (11, -14)}


@dataclass(frozen=True)
class Precision:
    """The formats of one way to compute, by name.

    operand: what matrix products and convolutions read, weights too. product: what they, activations and softmax return.
    stored: everything else: norms, sums, residuals, weights of norms. sums: accumulators, and the inside of norms and softmax.
    """

    name: str
    operand: str
    product: str
    stored: str
    sums: str


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("float64", "float64", "float64", "float64", "float64"),
        Precision("float32", "float32", "float32", "float32", "float32"),
        Precision("tf32", "tf32", "float32", "float32", "float32"),
        Precision("bfloat16", "bfloat16", "bfloat16", "bfloat16", "float32"),
        Precision("float16", "float16", "float16", "float16", "float32"),
        Precision("autocast-bfloat16", "bfloat16", "bfloat16", "float32", "float32"),
        Precision("autocast-float16", "float16", "float16", "float32", "float32"),
    )
}


def precision_of(name: object) -> Precision:
    """The precision of that name; ConfigError names the nearest one where there is none."""
    if not isinstance(name, str) or name not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise ConfigError(f"there is no precision {name!r}{nearest(str(name), PRECISIONS)} (known: {known})")
    return PRECISIONS[name]


def unit(format: str) -> float:  # noqa: A002  the field's word
    """Unit roundoff: the largest relative error of rounding to nearest in a format of FORMATS."""
    return float(2.0 ** -FORMATS[format][0])


def smallest(format: str) -> float:  # noqa: A002
    """Half the distance of the smallest numbers: the largest error of rounding where a number is subnormal."""
    digits, exponent = FORMATS[format]
    return float(2.0 ** (exponent - digits))
