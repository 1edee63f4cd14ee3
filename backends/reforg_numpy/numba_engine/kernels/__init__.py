"""What numba compiles: kernels on float32, written with vectors (simd) and one tile of a matrix product (tile).

May import numba, the codes and shapes of the folder above, reforg_numpy.coefficients and reforg.plans.matrices: `library.key` reads
all of these, so that other sources have other kernels. Start with `work`, which goes through the steps of a program; `tile` has
what everything fast is made of.
"""
