"""Problems have the spectra they promise, and nothing but the seed changes them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from harness.judge.cache import TensorCache, tensor_bytes
from harness.judge.problems import PROBLEMS, condition_number, get_problem, logspace, pose, stated_lower
from harness.records import Case, Mode
from iroot.errors import InvalidInputError, UnknownNameError, UnsupportedError
from iroot.registry import Operands

CPU = torch.device("cpu")
SPD = [name for name, spec in PROBLEMS.items() if "spd" in spec.operands]
GRAM = [name for name, spec in PROBLEMS.items() if "gram" in spec.operands]
SQUARE = [name for name, spec in PROBLEMS.items() if "square" in spec.operands]
RECTANGULAR = [name for name, spec in PROBLEMS.items() if "rectangular" in spec.operands]


def spd_case(*, n: int = 64, batch: int = 1, precision: str = "fp32", k: int | None = None) -> Case:
    task = "inverse_root" if k is None else "inverse_apply"
    return Case(task=task, method="any", precision=precision, p=2, m=n, n=n, batch=batch, k=k, problem="any",
                mode=Mode.EAGER)  # fmt: skip


def polar_case(*, m: int, n: int, batch: int = 1, precision: str = "fp32") -> Case:
    return Case(task="polar", method="any", precision=precision, m=m, n=n, batch=batch, problem="any", mode=Mode.EAGER)


def eigenvalues(operands: Operands) -> Tensor:
    values: Tensor = torch.linalg.eigvalsh(operands.A.double()) + operands.eps
    return values


def smallest_ratio(values: Tensor) -> float:
    return float((values.amin(-1) / values.amax(-1)).min())


@pytest.mark.parametrize("name", SPD)
@pytest.mark.parametrize("batch", [1, 3])
def test_spd_problems_are_symmetric_positive_definite_and_within_their_lower_bound(name: str, batch: int) -> None:
    operands = pose(name, spd_case(batch=batch), seed=1, device=CPU)
    assert operands.A.shape == ((batch, 64, 64) if batch > 1 else (64, 64))
    assert operands.A.dtype == torch.float32
    assert torch.equal(operands.A, operands.A.mT)
    assert operands.p == 2
    if operands.lower is None:
        assert name in ("logspace_1e7", "logspace_1e8")  # float32 does not preserve these condition numbers
    else:
        assert smallest_ratio(eigenvalues(operands)) >= operands.lower


@pytest.mark.parametrize("name", RECTANGULAR)
@pytest.mark.parametrize(("m", "n", "batch"), [(64, 64, 1), (48, 160, 1), (160, 48, 2)])
def test_rectangular_problems_are_within_their_lower_bound(name: str, m: int, n: int, batch: int) -> None:
    operands = pose(name, polar_case(m=m, n=n, batch=batch), seed=1, device=CPU)
    assert operands.A.shape == ((batch, m, n) if batch > 1 else (m, n))
    assert operands.p is None
    assert operands.eps == 0
    if operands.lower is not None:
        assert smallest_ratio(torch.linalg.svdvals(operands.A.double())) >= operands.lower


@pytest.mark.parametrize(
    ("name", "kappa"), [("logspace_1e1", 10.0), ("logspace_1e4", 1e4), ("logspace_1e6", 1e6), ("logspace_3.2e5", 3.2e5)]
)
def test_logspace_has_the_condition_number_in_its_name(name: str, kappa: float) -> None:
    expected = torch.logspace(0, -math.log10(kappa), 64, dtype=torch.float64).flip(0)
    posed = eigenvalues(pose(name, spd_case(precision="fp64"), seed=0, device=CPU))
    torch.testing.assert_close(posed, expected, rtol=1e-8, atol=0)
    sigma = torch.linalg.svdvals(pose(name, polar_case(m=64, n=96, precision="fp64"), seed=0, device=CPU).A)
    assert float(sigma[0] / sigma[-1]) == pytest.approx(kappa, rel=1e-7)


def test_log_spaced_problems_of_any_condition_number() -> None:
    assert [name for name in PROBLEMS if name.startswith("logspace_")] == [f"logspace_1e{k}" for k in range(1, 9)]
    assert get_problem("logspace_1e3") is PROBLEMS["logspace_1e3"]
    assert get_problem("logspace_250").name == logspace(250.0).name == "logspace_2.5e2"
    assert condition_number("logspace_2.5e2") == 250.0
    for name in ("wishart", "logspace_", "logspace_0.5", "logspace_inf", "logspace_nan", "logspace_ten"):
        assert condition_number(name) is None
    with pytest.raises(UnknownNameError, match="did you mean 'logspace_1e"):
        get_problem("logspace_0.5")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["logspace_1e7", "logspace_1e8"])
def test_rounding_to_float32_leaves_the_worst_conditioned_problems_positive_definite(name: str, seed: int) -> None:
    operands = pose(name, spd_case(n=256), seed=seed, device=CPU)
    assert float(eigenvalues(operands)[0]) > 0
    assert operands.lower is None
    assert pose(name, spd_case(n=256, precision="fp64"), seed=seed, device=CPU).lower is not None


def test_power_law_spike_and_rank_deficient_spectra() -> None:
    index = torch.arange(64, 0, -1, dtype=torch.float64)
    power = eigenvalues(pose("power_law", spd_case(precision="fp64"), seed=0, device=CPU))
    torch.testing.assert_close(power, index**-2.0 + 1e-6, rtol=1e-9, atol=0)
    spike = eigenvalues(pose("spike", spd_case(precision="fp64"), seed=0, device=CPU))
    assert float(spike[-1]) == pytest.approx(1)
    assert int((spike < 2.0001e-4).sum()) == 63
    deficient = pose("rank_deficient", spd_case(precision="fp64"), seed=0, device=CPU)
    assert deficient.eps == 1e-4
    assert int((eigenvalues(deficient) < 1.0001e-4).sum()) == 48


def test_wishart_has_the_condition_number_of_a_damped_gaussian_gram() -> None:
    values = eigenvalues(pose("wishart", spd_case(n=256), seed=0, device=CPU))
    assert 3e3 < float(values[-1] / values[0]) < 4.2e3


def test_identity_and_diagonal() -> None:
    assert torch.equal(pose("identity", spd_case(), seed=0, device=CPU).A, torch.eye(64))
    A = pose("diagonal", spd_case(), seed=0, device=CPU).A
    assert torch.equal(A, torch.diag(torch.diagonal(A)))


@pytest.mark.parametrize("name", SPD)
def test_seed_alone_decides(name: str) -> None:
    first = pose(name, spd_case(), seed=3, device=CPU, cache=TensorCache(2**24)).A
    assert torch.equal(first, pose(name, spd_case(), seed=3, device=CPU).A)
    if name != "identity":
        assert not torch.equal(first, pose(name, spd_case(), seed=4, device=CPU).A)


def test_matrices_of_a_batch_are_independent() -> None:
    A = pose("logspace_1e4", spd_case(batch=2), seed=0, device=CPU).A
    assert float((A[0] * A[1]).sum() / (A[0].norm() * A[1].norm())) < 0.5


def test_rectangular_problems_have_entries_of_unit_mean_square() -> None:
    for name in ("logspace_1e4", "spike", "power_law"):
        A = pose(name, polar_case(m=64, n=96), seed=0, device=CPU).A
        assert float(A.square().mean()) == pytest.approx(1, rel=1e-5)


def test_columns_have_the_dtype_of_the_matrix_and_do_not_change_it() -> None:
    without = pose("wishart", spd_case(), seed=0, device=CPU)
    operands = pose("wishart", spd_case(k=8), seed=0, device=CPU)
    assert without.B is None
    assert operands.B is not None
    assert operands.B.shape == (64, 8)
    assert operands.B.dtype == torch.float32
    assert torch.equal(operands.A, without.A)
    assert float(operands.B.std()) == pytest.approx(1, abs=0.15)


def test_emulated_formats_hold_representable_values_only() -> None:
    A = pose("gaussian", polar_case(m=32, n=96, precision="bf16_emulated"), seed=0, device=CPU).A
    assert A.dtype == torch.float32
    assert torch.equal(A, A.bfloat16().float())


def test_rounding_takes_from_what_is_known_of_the_spectrum() -> None:
    assert stated_lower(None, 2.0**-24) is None
    assert stated_lower(1e-4, 2.0**-8) is None
    assert stated_lower(1e-2, 2.0**-8) == pytest.approx(0.95 * (1e-2 - 0.86 * 2.0**-8))
    bf16 = pose("logspace_1e2", polar_case(m=64, n=96, precision="bf16_emulated"), seed=0, device=CPU)
    assert bf16.lower is not None
    assert smallest_ratio(torch.linalg.svdvals(bf16.A.double())) >= bf16.lower
    assert pose("logspace_1e4", polar_case(m=64, n=96, precision="bf16_emulated"), seed=0, device=CPU).lower is None


def test_bad_requests_name_the_remedy() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'wishart'"):
        get_problem("wishard")
    with pytest.raises(InvalidInputError, match=r"no rectangular operands; use one of .*gaussian"):
        pose("wishart", polar_case(m=8, n=8), seed=0, device=CPU)
    with pytest.raises(InvalidInputError, match="needs m = n, got 8x9"):
        pose("wishart", spd_case(n=8).model_copy(update={"n": 9}), seed=0, device=CPU)
    with pytest.raises(UnsupportedError, match="no bfloat16 matrix unit"):
        pose("gaussian", polar_case(m=8, n=8, precision="bf16"), seed=0, device=CPU)


def test_cache_keeps_within_its_bytes_and_drops_the_least_recently_used() -> None:
    cache = TensorCache(2 * 4096)
    made: list[str] = []

    def build(name: str) -> Tensor:
        made.append(name)
        return torch.zeros(1024)

    for name in ("a", "b", "a", "c", "a", "b"):
        assert tensor_bytes(cache.get(name, lambda name=name: build(name))) == 4096  # type: ignore[misc]
        assert cache.used_bytes <= cache.capacity_bytes
    assert made == ["a", "b", "c", "b"]
    cache.get("large", lambda: torch.zeros(4096))
    assert cache.used_bytes == 8192
    cache.clear()
    assert cache.used_bytes == 0
