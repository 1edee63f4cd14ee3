"""The vectors of this processor, and the tiles that suit them: what packs for the kernels needs to know, without compiling any."""

import llvmlite.binding as llvm


def lanes_here() -> int:
    """How many float32 a vector register of this processor has; 4 where nothing is known."""
    features = llvm.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx") else 4


LANES = lanes_here()
REGISTERS = 16 if LANES == 8 or ("x86" in llvm.get_process_triple() and LANES == 4) else 32
WIDTH = 2  # vectors of a panel's row
HEIGHT = 12 if REGISTERS == 32 else 6  # rows of a tile: HEIGHT * WIDTH sums, WIDTH + 1 more registers
PANEL = WIDTH * LANES
CHUNK = 192  # columns of a chunk: a tile's rows stay in the first cache, and shorter sums are rounded less often
DEPTH = 208  # floats from a row of a chunk to the next: known to the compiler, and not a multiple of a page's part
SPACE = 8  # counters this far apart, so that no two are on one line of the cache
