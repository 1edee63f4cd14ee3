"""What numba compiles: kernels on float32, written with vectors (simd) and one tile of a matrix product (tile)."""
