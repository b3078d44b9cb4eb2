"""`ci/fit_squares.py`: its derivatives, that it finds nothing better than what is shipped, and a table it writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from iroot.squares import SHIPPED_FILE, read_squares, squares_for, tabulated

SCRIPT = Path(__file__).with_name("fit_squares.py")


@pytest.fixture(scope="module")
def fit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fit_squares", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_derivatives_are_those_of_differences(fit: ModuleType) -> None:
    s, numbers = np.linspace(0.05, 1.0, 30), fit.unshifted(fit.as_numbers(squares_for(0.01)))
    numbers[2] = 0.0
    found = fit.jacobian(numbers, fit.nodes(numbers, s))
    for k, step in enumerate(1e-6 * np.eye(12)):
        if k == 2:
            assert not found[k].any()
            continue
        up, down = fit.nodes(numbers + step, s).q, fit.nodes(numbers - step, s).q
        np.testing.assert_allclose(found[k], (up - down) / 2e-6, rtol=1e-6, atol=1e-6)


def test_the_constant_of_the_inner_square_leaves_the_polynomial_alone(fit: ModuleType) -> None:
    s, numbers = np.linspace(0.0, 1.0, 30), fit.as_numbers(squares_for(0.01))
    free = fit.unshifted(numbers)
    np.testing.assert_allclose(fit.shifted(free), numbers, rtol=1e-13)
    without = np.where(np.arange(12) == 2, 0.0, free)
    np.testing.assert_allclose(fit.nodes(without, s).q, fit.nodes(numbers, s).q, rtol=1e-11)
    # What it is for: the shipped value lets rounding grow less.
    assert fit.rounding(without, s, np.inf) > 1.02 * fit.rounding(numbers, s, np.inf)


@pytest.mark.parametrize("lower", [0.0045, 0.12])
def test_the_shipped_steps_cannot_be_improved_by_a_hundredth(fit: ModuleType, lower: float) -> None:
    entry = squares_for(lower)
    numbers = fit.as_numbers(entry)
    stored = fit.judged(numbers, entry.ratio).objective
    perturbed = numbers * (1.0 + 0.01 * np.random.default_rng(1).normal(size=12))
    for start in (numbers, perturbed):
        assert stored - fit.improved(start, entry.ratio).objective < 0.01
    # A start that is worse is improved: the search does search.
    assert fit.improved(perturbed, entry.ratio).objective < fit.judged(perturbed, entry.ratio).objective - 0.1


def test_the_shipped_table_holds_the_ratios_of_the_script(fit: ModuleType) -> None:
    assert tuple(entry.ratio for entry in tabulated()) == fit.RATIOS


@pytest.mark.parametrize("start", [[], ["--start", str(SHIPPED_FILE)]])
def test_a_table_is_written_with_and_without_a_start(
    fit: ModuleType,
    start: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fit, "RATIOS", (0.1, 0.11))
    monkeypatch.setattr(fit, "STARTS", 2)
    monkeypatch.setattr(fit, "SWEEPS", 1)
    assert fit.main([str(tmp_path / "out.toml"), *start]) == 0
    entries = read_squares(tmp_path / "out.toml")
    assert [entry.ratio for entry in entries] == [0.1, 0.11]
    # Two random starts need not meet the best one.
    assert all(0.01 < entry.error < 0.06 for entry in entries)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in printed] == [
        ["ratio", f"{entry.ratio:.6f}", "error", f"{entry.error:.6f}"] for entry in entries
    ]
