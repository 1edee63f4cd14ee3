"""Arrays of other libraries go into a model and come out of it without a copy, where device and dtype allow; shown by pointers."""

import importlib.util

import numpy as np
import pytest

import reforg

LIBRARIES = ["numpy", *(name for name in ("torch", "jax") if importlib.util.find_spec(name))]
every_backend = pytest.mark.parametrize("backend", LIBRARIES)
every_giver = pytest.mark.parametrize("giver", LIBRARIES)


def aligned(shape):
    """float32 zeros that begin at a multiple of 64 bytes, as JAX takes them without a copy."""
    size = int(np.prod(shape))
    room = np.zeros(size + 16, np.float32)
    start = -(room.ctypes.data % 64) % 64 // 4
    return room[start : start + size].reshape(shape)


def given_by(name, shape):
    if name == "torch":
        import torch

        return torch.zeros(shape)
    if name == "jax":
        import jax.numpy as jnp

        return jnp.zeros(shape, jnp.float32)
    return aligned(shape)


def pointer(array):
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()


def model_on(backend, dtype="float32"):
    return reforg.create_model("evit_fmnist", backend=backend, dtype=dtype)


# JAX computes while its caller goes on, so NumPy's arrays, which the caller may fill anew meanwhile, are copied there.
PAIRS = [(giver, backend) for giver in LIBRARIES for backend in LIBRARIES if (giver, backend) != ("numpy", "jax")]


@pytest.mark.parametrize(("giver", "backend"), PAIRS)
def test_images_go_in_without_a_copy(backend, giver):
    images = given_by(giver, (2, 1, 28, 28))
    model = model_on(backend)
    assert pointer(model._checked(images, None)) == pointer(images)


@every_backend
@every_giver
def test_weights_go_in_without_a_copy(backend, giver):
    weights = {name: given_by(giver, value.shape) for name, value in model_on("numpy").weights.items()}
    model = reforg.create_model("evit_fmnist", weights=weights, backend=backend)
    assert {name for name, value in model.weights.items() if pointer(value) != pointer(weights[name])} == set()


@every_backend
@pytest.mark.parametrize("taker", LIBRARIES)
def test_logits_come_out_without_a_copy(backend, taker):
    logits = model_on(backend)(given_by(backend, (2, 1, 28, 28)))
    if taker == "torch":
        import torch

        taken = torch.from_dlpack(logits)
    elif taker == "jax":
        import jax.numpy as jnp

        taken = jnp.from_dlpack(logits)
        if pointer(logits) % 64:
            pytest.skip("JAX copies what does not begin at a multiple of 64 bytes")
    else:
        taken = np.from_dlpack(logits)
    assert pointer(taken) == pointer(logits)


@every_backend
@every_giver
def test_another_dtype_is_a_copy_and_leaves_the_original(backend, giver):
    images = given_by(giver, (1, 1, 28, 28))
    taken = model_on(backend, "float16")._checked(images, None)
    assert pointer(taken) != pointer(images)
    assert "float32" in str(images.dtype)
    assert not np.from_dlpack(images).any()


@pytest.mark.gpu
def test_cupy_arrays_stay_where_they_are():
    import cupy

    images = cupy.zeros((1, 1, 28, 28), cupy.float32)
    model = model_on("cupy")
    assert model._checked(images, None).data.ptr == images.data.ptr
    logits = model(images)
    assert cupy.from_dlpack(logits).data.ptr == logits.data.ptr
