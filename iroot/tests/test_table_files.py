"""Table files: written and read to the last digit; every kind of bad file is refused by name, key and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from iroot.coefficients import NAMED_TABLES, NamedTable
from iroot.errors import InvalidInputError, UnknownNameError
from iroot.ops import make_ops
from iroot.registry import Operands, Workload, get_method
from iroot.schedules import Design, schedule_for
from iroot.table_files import (
    HeldOut,
    Provenance,
    Search,
    Versions,
    find_table,
    read_polar_table,
    read_schedule,
    shipped_tables,
    write_polar_table,
    write_schedule,
)

PROVENANCE = Provenance(
    command="iroot tune polar", created="2026-11-22T00:00:00+00:00",
    versions=Versions(python="3", numpy="2", scipy="1", iroot="0"),
)  # fmt: skip
SEARCH = Search(
    start="turbo_muon", seed=0, generations=1, population=4, objective="mean", objective_value=0.1, kinds=("normal",),
    shapes=((8, 8),), samples=1, ranges=((1.0, 2.0),),
)  # fmt: skip
TABLE = NamedTable(
    name="mine", coefficients=((1.1, -0.3, 1 / 3), (1.875, -1.25, 0.375)), lower=0.03, safety=1.01, limit=None,
    source="a test", made_for="aol",
)  # fmt: skip


@pytest.fixture
def polar_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    held_out = (HeldOut(kind="normal", mean=0.1, worst=0.2, start_mean=0.3, start_worst=0.4),)
    write_polar_table(path, TABLE, provenance=PROVENANCE, search=SEARCH, held_out=held_out)
    return path


@pytest.fixture
def schedule_file(tmp_path: Path) -> Path:
    path = tmp_path / "schedule.toml"
    write_schedule(path, schedule_for(Design(p=2, lower=1e-3, degrees=(2, 8)), target=1e-3), provenance=PROVENANCE)
    return path


def test_polar_tables_survive_to_the_last_digit(polar_file: Path) -> None:
    assert read_polar_table(polar_file) == TABLE
    assert find_table(str(polar_file)) == TABLE
    assert list(polar_file.parent.iterdir()) == [polar_file]


@pytest.mark.parametrize("degrees", [(2,), (4, 8), (1, 2, 8)])
def test_schedules_survive_to_the_last_digit(tmp_path: Path, degrees: tuple[int, ...]) -> None:
    schedule = schedule_for(Design(p=4, lower=1e-4, degrees=degrees, headroom=0.05, safety=1.01), target=1e-3)
    write_schedule(tmp_path / "s.toml", schedule, provenance=PROVENANCE)
    read = read_schedule(tmp_path / "s.toml")
    assert read.steps == schedule.steps
    assert (read.design.p, read.design.lower, read.design.headroom) == (4, 1e-4, 0.05)


def test_names_and_paths() -> None:
    assert find_table("turbo_muon") is NAMED_TABLES["turbo_muon"]
    with pytest.raises(UnknownNameError, match="did you mean 'turbo_muon'"):
        find_table("turbo_moon")
    with pytest.raises(InvalidInputError, match=r"no table file absent\.toml; write one with `iroot tune`"):
        find_table("absent.toml")


def test_shipped_tables_do_not_hide_published_ones() -> None:
    assert not set(shipped_tables()) & set(NAMED_TABLES)
    for name, table in shipped_tables().items():
        assert find_table(name) == table
        assert table.source


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('schema = "iroot-polar/1"', 'schema = "iroot-polar/2"', "schema must be 'iroot-polar/1'"),
        ('made_for = "aol"', 'made_for = "ao"', "made_for must be one of aol, square, gram, frobenius, got 'ao'"),
        ("safety = 1.01", "safety = 0.5", r"safety must be a number in \[1, 2\], got 0.5"),
        ("safety = 1.01", 'safety = "1"', "safety must be a number"),
        ("1.875", "nan", "three finite numbers for each step"),
        ("    [\n        1.875,", "    [", "three finite numbers for each step"),
        ("lower = 0.03", "lower = 2.0", "lower must be a number"),
        ('name = "mine"', 'name = ""', "name must be a non-empty string"),
        ("[provenance]", "[origin]", "provenance must be a table with command, created, versions"),
        ("coefficients = [", "coefficients = [[", "must be TOML in UTF-8"),
    ],
)
def test_bad_polar_tables_are_refused(polar_file: Path, old: str, new: str, text: str) -> None:
    content = polar_file.read_text()
    assert old in content
    polar_file.write_text(content.replace(old, new, 1))
    with pytest.raises(InvalidInputError, match=rf"mine\.toml.*{text}"):
        read_polar_table(polar_file)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("p = 2", "p = 0", "p must be an integer"),
        ("degree = 8", "degree = 9", r"step\.degree must be an integer in \[1, 8\]"),
        ("degree = 8", "degree = 4", r"step\.chebyshev must be 5 finite numbers for degree 4"),
        ("p = 2", "p = 3", "step must be coefficients that reach the stated error"),
        ("[[step]]\ndegree = 2", "[[stage]]\ndegree = 2", "step must be coefficients that reach the stated error"),
    ],
)
def test_bad_schedules_are_refused(schedule_file: Path, old: str, new: str, text: str) -> None:
    content = schedule_file.read_text()
    assert old in content
    schedule_file.write_text(content.replace(old, new, 1))
    with pytest.raises(InvalidInputError, match=rf"schedule\.toml.*{text}"):
        read_schedule(schedule_file)


def test_a_wrong_digit_shows(schedule_file: Path) -> None:
    content = schedule_file.read_text()
    first = next(line for line in content.splitlines() if line.startswith("    ")).strip(" ,")
    schedule_file.write_text(content.replace(first, str(float(first) * 1.05), 1))
    with pytest.raises(InvalidInputError, match="stated error"):
        read_schedule(schedule_file)


@pytest.mark.parametrize("name", ["coupled_pe", "uncoupled_pe"])
def test_root_methods_run_a_schedule_file(tmp_path: Path, name: str) -> None:
    spec, path = get_method("inverse_root", name), tmp_path / "s.toml"
    write_schedule(path, schedule_for(Design(p=4, lower=1e-3), target=1e-6), provenance=PROVENANCE)
    Q, _ = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    A = (Q * torch.logspace(0, -2, 16, dtype=torch.float64)) @ Q.mT
    ops, options = make_ops("fp64", torch.device("cpu")), spec.make_options({"table": str(path)})
    X = spec.function(Operands(A=A, p=4, lower=0.009), ops, options)
    expected = (Q * torch.logspace(0, 0.5, 16, dtype=torch.float64)) @ Q.mT
    assert torch.linalg.matrix_norm(X - expected) < 2e-6 * torch.linalg.matrix_norm(expected)
    assert spec.steps is not None
    workload = Workload(m=16, n=16, p=4, precision="fp64", lower=0.009)
    assert spec.steps(workload, options) == len(read_schedule(path).steps)
    with pytest.raises(InvalidInputError, match="serves p = 4, got p = 2"):
        spec.function(Operands(A=A, p=2, lower=0.009), ops, options)
    with pytest.raises(InvalidInputError, match=r"serves spectra in \[0\.001, 1\].*iroot tune schedule --p 4"):
        spec.function(Operands(A=A, p=4, lower=1e-4), ops, options)
    with pytest.raises(InvalidInputError, match="no table file"):
        spec.make_options({"table": "absent.toml"})


@pytest.mark.parametrize("name", ["aol", "newton_schulz", "gram_newton_schulz"])
def test_a_table_is_taken_whole_unless_steps_are_given(polar_file: Path, name: str) -> None:
    spec, workload = get_method("polar", name), Workload(m=12, n=20, precision="fp32")
    options: dict[str, object] = {"coefficients": str(polar_file)}
    if name == "gram_newton_schulz":
        options["restarts"] = [1]
    assert spec.steps is not None
    assert spec.steps(workload, spec.make_options(options)) == len(TABLE.coefficients)
    published = spec.make_options({"coefficients": "turbo_muon"})
    assert spec.steps(workload, published) == 4


@pytest.mark.parametrize("name", ["aol", "newton_schulz", "gram_newton_schulz"])
def test_polar_methods_run_a_tuned_table(polar_file: Path, name: str) -> None:
    spec = get_method("polar", name)
    options: dict[str, object] = {"coefficients": str(polar_file), "steps": 2}
    if name == "gram_newton_schulz":
        options["restarts"] = [1]
    G = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    ops = make_ops("fp32", torch.device("cpu"))
    X = spec.function(Operands(A=G), ops, spec.make_options(options))
    assert TABLE.take()[0][0] == TABLE.coefficients[0][0] / 1.01
    assert X.isfinite().all()
    published = spec.function(Operands(A=G), ops, spec.make_options({**options, "coefficients": "polar_express"}))
    assert not torch.allclose(X, published, atol=1e-2)


def test_a_tuned_table_is_a_constant_for_torch_compile(polar_file: Path) -> None:
    spec, ops = get_method("polar", "newton_schulz"), make_ops("fp32", torch.device("cpu"))
    options, G = spec.make_options({"coefficients": str(polar_file)}), torch.eye(8)
    torch.compiler.reset()
    compiled = torch.compile(lambda G: spec.function(Operands(A=G), ops, options), fullgraph=True, backend="eager")
    assert torch.equal(compiled(G), spec.function(Operands(A=G), ops, options))
