"""Why a surviving mutant is none of the tests' business: (file, kind, line before, line after) -> the reason.

"equivalent": no program can tell it from the original; it does not count. "accepted": it differs in what no test needs to
hold; it counts as a survivor. Lines are as the report shows them, so that a reason stays where its line moves.
"""

REASONS: dict[tuple[str, str, str, str], tuple[str, str]] = {
    (
        "reforg/evit.py",
        "argument",
        "return kept_count(self.rates[block], candidates)",
        "return kept_count(candidates, self.rates[block])",
    ): ("equivalent", "its two arguments are multiplied, and a product has no order"),
    (
        "reforg/evit.py",
        "call",
        "return narrow(xp.sum(widen(tokens) * widen(scores)[:, :, None], axis=1, keepdims=True), tokens)",
        "return narrow(xp.sum(widen(tokens) * scores[:, :, None], axis=1, keepdims=True), tokens)",
    ): ("equivalent", "times a widened array, the scores are widened by the product itself; the values are the same"),
    (
        "reforg/ops/resize.py",
        "number",
        'support = (2.0 if method == "bicubic" else 1.0) * stretch',
        'support = (2.0 if method == "bicubic" else 1.01) * stretch',
    ): ("equivalent", "a wider support only adds taps of weight zero"),
    (
        "reforg/ops/resize.py",
        "arithmetic",
        "low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)",
        "low, high = max(int(centre - support - 0.5), 0), min(int(centre + support + 0.5), source)",
    ): ("equivalent", "begins one tap earlier, whose weight is zero"),
    (
        "reforg/ops/resize.py",
        "number",
        "low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), source)",
        "low, high = max(int(centre - support + 0.5), 0), min(int(centre + support + 1.0), source)",
    ): ("equivalent", "may end one tap later, whose weight is zero"),
    (
        "reforg/ops/resize.py",
        "number",
        "return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0",
        "return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.02 else 0.0",
    ): ("equivalent", "no tap lies further than 2 from its centre, where the polynomial is zero too"),
    (
        "reforg/ops/resize.py",
        "number",
        "return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0",
        "return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 4.0 else 0.0",
    ): ("equivalent", "no tap lies further than 2 from its centre, where the polynomial is zero too"),
    (
        "reforg/ops/resize.py",
        "order",
        "most = max(len(indices) for indices, _ in positions)",
        "most = max(len(indices) for _, indices in positions)",
    ): ("equivalent", "each position has as many weights as indices"),
    ("reforg/shunted.py", "sign", 'net.trace(f"{path}.act", reduced[-1][0])', 'net.trace(f"{path}.act", reduced[1][0])'): (
        "equivalent",
        "keys are reduced by two ratios wherever they are reduced: the last is the second",
    ),
    ("reforg/ops/basic.py", "call", "if len(arrays) == 1:", "if arrays == 1:"): (
        "equivalent",
        "the mean of one array, computed, is that array",
    ),
    ("reforg/ops/basic.py", "number", "if len(arrays) == 1:", "if len(arrays) == 0:"): (
        "equivalent",
        "the mean of one array, computed, is that array; of none there is none",
    ),
    ("reforg/ops/basic.py", "call", "shift = widen(bias) - widen(mean) * gain", "shift = bias - widen(mean) * gain"): (
        "equivalent",
        "a widened array is subtracted, which widens the bias by itself; the values are the same",
    ),
    (
        "reforg/tokens.py",
        "call",
        "return held & ~np.take_along_axis(self.fused, np.maximum(self.owner, 0), axis=1)",
        "return held & ~np.take_along_axis(self.fused, self.owner, axis=1)",
    ): ("equivalent", "-1 is the last token to NumPy, and what it says of a patch that nobody holds is masked"),
    (
        "reforg/ops/basic.py",
        "number",
        "x = xp.clip(x, -4.2, 4.2) # erf(4.2) rounds to 1",
        "x = xp.clip(x, -4.2, 4.242) # erf(4.2) rounds to 1",
    ): ("equivalent", "between 4.2 and 4.242 the approximation rounds to 1 as well"),
    (
        "reforg/ops/basic.py",
        "call",
        "rows = xp.reshape(widen(x), (math.prod(x.shape[:-1]), x.shape[-1]))",
        "rows = xp.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))",
    ): ("accepted", "times a widened array NumPy widens by itself, to the same values; torch refuses, in `make libraries`"),
    ("reforg/ops/basic.py", "call", "product = widen(a) @ widen(b)", "product = widen(a) @ b"): (
        "accepted",
        "times a widened array NumPy widens by itself, to the same values; torch refuses, in `make libraries`",
    ),
    (
        "reforg/ops/basic.py",
        "number",
        "return narrow(product if scale == 1.0 else product * scale, a)",
        "return narrow(product if scale == 1.01 else product * scale, a)",
    ): (
        "accepted",
        "1 is then multiplied like any other scale; a scale of exactly 1.01 would be left out, which no head width gives",
    ),
}
