"""Weights that both sides make from a tensor's name, so that none need to be stored.

Element i of a tensor is 24 random bits from splitmix64, seeded by the FNV-1a hash of the name: exact in f32.
`tests/it/golden.rs` has the same in Rust.
"""

import numpy
import torch

GOLDEN_RATIO = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1


def words(name: str, count: int) -> numpy.ndarray:
    """64 random bits for each element."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & MASK
    with numpy.errstate(over="ignore"):
        state = numpy.uint64(seed) + (numpy.arange(count, dtype=numpy.uint64) + numpy.uint64(1)) * numpy.uint64(GOLDEN_RATIO)
        state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        return state ^ (state >> numpy.uint64(31))


def values(name: str, shape: list[int]) -> numpy.ndarray:
    """Products and biases in ±1/4, the embedding in ±1/2, norms in 1 ± 1/4."""
    count = int(numpy.prod(shape))
    unit = (words(name, count) >> numpy.uint64(40)).astype(numpy.float64) / 2.0**24 - 0.5
    if "norm" in name:
        unit = 1.0 + unit * 0.5
    elif "embed" not in name:
        unit = unit * 0.5
    return unit.astype(numpy.float32).reshape(shape)


def fill(model: torch.nn.Module) -> list[tuple[str, list[int]]]:
    """Gives every parameter its values; returns names and shapes as they would stand in a file."""
    tensors = []
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(values(name, list(parameter.shape))))
            tensors.append((name, list(parameter.shape)))
    return tensors
