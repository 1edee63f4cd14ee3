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
}
