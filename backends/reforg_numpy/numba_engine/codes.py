"""Steps as numbers, which the kernels read."""

import numpy as np

EMBED, NORM, LINEAR, ATTENTION, DEPTHWISE, REORGANIZE, TAKE, POOL, MEAN = range(9)

ROWS, NORMED, MIXED, MAPS, PLANES = range(5)  # a product reads rows; their norms; mixed neighbours; windows of maps; of images
PLAIN, GELU, RELU, ADD = range(4)  # how a product ends
SUM, GELU_OF_SUM, MORE = range(3)  # how a depthwise convolution does: source + result; GELU of that; target + result

WHOLE = (
    "kind", "units", "source", "source_pitch", "source_leap", "target", "target_pitch", "target_leap", "rows", "inner", "columns",
    "row_parts", "column_parts", "weight", "bias", "gain", "end", "keys", "values", "key_pitch",
    "key_count", "tokens", "group", "heads", "depth", "attended", "attended_pitch", "branches", "branch_leap", "special", "kept",
    "fuse", "size", "stride", "padding", "channels", "height", "width", "out_height", "out_width", "before", "column", "parts",
    "other", "target_chunk", "source_step", "key_step", "first_weight", "first_bias",
)  # fmt: skip
STEP = np.dtype([*((name, np.int64) for name in WHOLE), ("eps", np.float32), ("scale", np.float32)])
