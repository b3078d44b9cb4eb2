"""Quantisation: the grid, half-step errors, ties, scales per matrix, and what happens to zero and non-finite input."""

from __future__ import annotations

import math

import pytest
import torch

from iroot.precision import Granularity
from iroot.quantize import (
    BLOCK,
    FORMATS,
    NumberFormat,
    Quantised,
    dequantise,
    find_scale,
    power_of_two_scale,
    quantise,
    tensor_scale,
)

FORMAT_NAMES = tuple(FORMATS)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grid_of(number_format: NumberFormat) -> torch.Tensor:
    if number_format.dtype is None:
        return torch.arange(-number_format.largest, number_format.largest + 1)
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(number_format.dtype).float()
    return codes[codes.isfinite()]


@pytest.mark.parametrize(
    ("name", "largest"), [("int8", 127), ("int4", 7), ("float8_e4m3fn", 448), ("float8_e5m2", 57344)]
)
def test_largest_is_the_end_of_the_grid(name: str, largest: float) -> None:
    assert FORMATS[name].largest == largest == grid_of(FORMATS[name]).max()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_values_are_on_the_grid_and_reach_its_end(name: str) -> None:
    number_format = FORMATS[name]
    quantised = quantise(gaussian(48, 33), number_format, dtype=torch.float32)
    assert torch.isin(quantised.values, grid_of(number_format)).all()
    assert quantised.values.abs().max() == number_format.largest


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_each_element_goes_to_the_nearest_grid_value(name: str) -> None:
    A = gaussian(16, 12)
    number_format = FORMATS[name]
    quantised = quantise(A, number_format, dtype=torch.float32)
    exact = A.double() / quantised.scale.double()
    nearest = (exact[..., None] - grid_of(number_format).double()).abs().amin(-1)
    taken = (exact - quantised.values.double()).abs()
    # A / scale is itself rounded to float32, so a near-tie may fall on either side.
    assert (taken <= nearest + 2.0**-23 * exact.abs()).all()


def test_integers_round_half_to_even() -> None:
    A = torch.tensor([[7.0, 0.5, 1.5, -0.5, -2.5, 3.5]])
    quantised = quantise(A, FORMATS["int4"], dtype=torch.float32)
    assert quantised.scale.item() == 1.0
    assert quantised.values.tolist() == [[7.0, 0.0, 2.0, 0.0, -2.0, 4.0]]


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_integer_error_is_at_most_half_a_step(name: str) -> None:
    A = gaussian(64, 64)
    quantised = quantise(A, FORMATS[name], dtype=torch.bfloat16)
    error = (dequantise(quantised) - A).abs().max()
    assert error <= 0.5000001 * quantised.scale.item()
    assert quantised.scale.item() == pytest.approx(A.abs().max().item() / FORMATS[name].largest, rel=1e-6)


@pytest.mark.parametrize(("name", "unit_roundoff"), [("float8_e4m3fn", 2.0**-4), ("float8_e5m2", 2.0**-3)])
def test_fp8_error_is_relative_for_normal_values(name: str, unit_roundoff: float) -> None:
    A = gaussian(64, 64)
    A = A[:, A.abs().amin(0) > 0.0]
    relative = (dequantise(quantise(A, FORMATS[name], dtype=torch.float32)) - A).abs() / A.abs()
    normal = A.abs() > A.abs().max() * 2.0**-13  # E4M3 spans 2^-6 .. 448 in normal values
    assert relative[normal].max() <= unit_roundoff * (1 + 1e-6)
    assert relative[normal].max() > 0.5 * unit_roundoff  # the format is no finer than it is said to be


def test_every_matrix_of_a_batch_has_its_own_scale() -> None:
    A = gaussian(2, 3, 8, 5) * torch.tensor([1.0, 10.0, 1e-6]).reshape(3, 1, 1)
    scale = tensor_scale(A, FORMATS["int8"])
    assert scale.shape == (2, 3, 1, 1)
    assert scale.dtype == torch.float32
    torch.testing.assert_close(scale, A.abs().amax((-2, -1), keepdim=True) / 127)


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_rounding_with_a_power_of_two_again_changes_nothing(name: str) -> None:
    number_format = FORMATS[name]
    for size in (1e-8, 1.0, 448.0, 3e12):
        A = gaussian(2, 16, 24) * size
        scale = power_of_two_scale(A, number_format)
        assert (torch.frexp(scale).mantissa == 0.5).all()
        ratio = scale / tensor_scale(A, number_format)
        assert ((ratio >= 1.0) & (ratio < 2.0)).all()
        word = dequantise(quantise(A, number_format, dtype=torch.float32, scale=scale))
        for part in (word, word[..., :8], word[:, 3:5]):
            again = quantise(part, number_format, dtype=torch.float32, scale=power_of_two_scale(part, number_format))
            assert torch.equal(dequantise(again), part)


@pytest.mark.parametrize("columns", [100, 128, 300])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_scale_per_row_or_block_is_its_largest_entry(name: str, columns: int) -> None:
    A = gaussian(2, 5, columns) * torch.logspace(-4, 4, 5)[:, None] * torch.logspace(0, 3, columns)
    row = find_scale(A, FORMATS[name], "row")
    torch.testing.assert_close(row, A.abs().amax(-1, keepdim=True) / FORMATS[name].largest)
    block = find_scale(A, FORMATS[name], "block")
    assert block.shape == (2, 5, math.ceil(columns / BLOCK))
    for j in range(block.shape[-1]):
        largest = A[..., j * BLOCK : (j + 1) * BLOCK].abs().amax(-1)
        torch.testing.assert_close(block[..., j], largest / FORMATS[name].largest)
    assert torch.equal(find_scale(A, FORMATS[name], "tensor"), tensor_scale(A, FORMATS[name]))


@pytest.mark.parametrize("granularity", ["row", "block"])
def test_integers_are_half_a_step_of_their_own_scale_away(granularity: Granularity) -> None:
    A = gaussian(2, 6, 300) * torch.logspace(-6, 6, 6)[:, None]
    scale = find_scale(A, FORMATS["int8"], granularity)
    error = (dequantise(quantise(A, FORMATS["int8"], dtype=torch.float32, scale=scale)) - A).abs()
    for j in range(scale.shape[-1]):
        columns = slice(j * BLOCK, (j + 1) * BLOCK) if granularity == "block" else slice(None)
        assert (error[..., columns].amax(-1) <= 0.50001 * scale[..., j]).all()


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_zero_stays_zero(name: str) -> None:
    quantised = quantise(torch.zeros(4, 4), FORMATS[name], dtype=torch.float32)
    assert (quantised.values == 0).all()
    assert quantised.scale.item() > 0.0
    assert math.isfinite(1.0 / quantised.scale.item())


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_a_non_finite_element_shows(name: str, bad: float) -> None:
    A = gaussian(8, 8)
    A[2, 3] = bad
    assert not dequantise(quantise(A, FORMATS[name], dtype=torch.float32)).isfinite().all()


def test_transpose_shares_memory() -> None:
    quantised = Quantised(gaussian(2, 4, 6), torch.ones(2, 1, 1))
    assert quantised.mT.values.shape == (2, 6, 4)
    assert quantised.mT.values.data_ptr() == quantised.values.data_ptr()
