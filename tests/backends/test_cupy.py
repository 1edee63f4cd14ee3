"""CuPy on a CUDA device (marker `gpu`), and the kernels' source, which compiles where nvcc is.

Needs nothing outside the repository. The operations' own tests run on CuPy too: `pytest -m gpu`.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import reforg
import reforg_golden
from reforg.catalog import synthetic

CASES = {case.id: case for case in reforg_golden.cases() if case.entry["weights"] != "embedded"}
KERNELS = Path(__file__).parents[2] / "backends" / "reforg_cupy" / "kernels.py"
ARCHITECTURES = ("sm_80", "sm_90")


def kernel_bodies() -> dict[str, str]:
    """The kernels' source, read without importing CuPy."""
    spec = importlib.util.spec_from_file_location("kernels", KERNELS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: value for name, value in vars(module).items() if name.isupper()}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs the CUDA toolkit's nvcc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("name", "kind"), [("SINGLE_GELU", "float"), ("SINGLE_GELU", "__half"), ("DOUBLE_GELU", "double")])
def test_kernels_compile(tmp_path, architecture, name, kind):
    source = f"""#include <cuda_fp16.h>
    typedef {kind} T;
    __global__ void kernel(const T* in, T* out, int n) {{
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        if (i < n) {{ T x = in[i]; T y; {kernel_bodies()[name]}; out[i] = y; }}
    }}"""
    (tmp_path / "kernel.cu").write_text(source)
    command = [
        "nvcc",
        "-cubin",
        f"-arch={architecture}",
        "-Werror",
        "all-warnings",
        "-o",
        tmp_path / "kernel.cubin",
        tmp_path / "kernel.cu",
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def on_device(case, **settings):
    return reforg.create_model(
        case.entry["model"], weights=case.entry["weights"], backend="cupy", **settings, **case.entry["config"]
    )


def images_of(case):
    return synthetic.images(tuple(case.entry["images"]["shape"]), case.entry["images"]["synthetic"])


@pytest.mark.gpu
@pytest.mark.parametrize("ops", ["reference", "auto"])
@pytest.mark.parametrize("name", list(CASES))
def test_float64_logits_are_the_official_ones(name, ops):
    case = CASES[name]
    model = on_device(case, dtype="float64", ops=ops)
    logits, truth = model.backend.to_numpy(model(images_of(case))), case.arrays()["logits"]
    assert np.abs(logits - truth).max() <= case.entry["limits"]["float64"] * np.abs(truth).max()


@pytest.mark.gpu
@pytest.mark.parametrize("name", [name for name in CASES if "micro" not in name])
def test_float32_is_as_near_to_the_truth_as_torch_is(name):
    case, recorded = CASES[name], CASES[name].arrays()
    model = on_device(case)
    ours = model.backend.to_numpy(model(images_of(case))) - recorded["logits"]
    theirs = recorded["logits_float32"] - recorded["logits"]
    assert np.sqrt((ours**2).mean()) <= case.entry["limits"]["float32_rms_ratio"] * np.sqrt((theirs**2).mean())


@pytest.mark.gpu
def test_images_from_the_host_and_from_the_device_give_the_same_on_the_device():
    import cupy

    case = CASES["evit_micro_k07_fuse"]
    model = on_device(case)
    images = images_of(case)
    answers = [model(images), model(cupy.asarray(images))]
    assert all(isinstance(answer, cupy.ndarray) for answer in answers)
    np.testing.assert_array_equal(*map(cupy.asnumpy, answers))


@pytest.mark.gpu
def test_a_device_that_is_not_there_is_a_backend_error():
    with pytest.raises(reforg.BackendError, match="no CUDA device answers"):
        on_device(CASES["evit_micro_k07_fuse"], device=99)
