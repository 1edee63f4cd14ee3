"""Bodies of elementwise CUDA kernels, apart from CuPy so that they can be compiled where it is not installed.

`T x` is the input, `T y` the output; erf and erff are CUDA's own, to two units in the last place.
"""

SINGLE_GELU = "y = (T)(0.5f * (float)x * (1.0f + erff((float)x * 0.7071067811865476f)))"
DOUBLE_GELU = "y = 0.5 * x * (1.0 + erf(x * 0.7071067811865476))"
