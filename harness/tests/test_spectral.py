"""The spectral convergence report: against the scalar recurrence, a golden of planted figures, the command.

After an intended change: IROOT_UPDATE_GOLDENS=1 python -m pytest harness/tests/test_spectral.py, then read the diff.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness.cli.report import report as command
from harness.errors import UsageError
from harness.report.spectral import bottom_line, plot, render_spectral
from harness.spectral import SpectralCurve, SpectralReport, SpectralRequest, SpectralStep, spectral_report
from iroot.coefficients import OddQuintic, named_table
from iroot.errors import InvalidInputError, UnknownNameError, UnsupportedError
from iroot.methods.coupled_pe import planned_schedule
from iroot.options import ScheduleOptions
from iroot.registry import Workload
from iroot.schedules import Step

GOLDEN = Path(__file__).parent / "golden" / "spectral.md"
KAPPA, N = 1e3, 48


def planted(name: str, radii: list[float | None], *, products: float) -> SpectralCurve:
    """A curve of which the smallest eigenvalue is 1 - radius and all others are 1."""
    steps = [
        SpectralStep(step=t, products=1 + products * t)
        if radius is None
        else SpectralStep(
            step=t, products=1 + products * t, smallest=1 - radius, largest=1.0, radius=radius,
            log_ratio=-math.log1p(-radius) if radius < 1 else None, within_10=1.0 if radius <= 0.1 else 0.75,
            within_1=0.5, exact_smallest=1 - radius, exact_largest=1.0,
        )
        for t, radius in enumerate(radii)
    ]  # fmt: skip
    return SpectralCurve(name=name, scaling="square", steps=tuple(steps))


def planted_report(radii: list[float | None] | None = None) -> SpectralReport:
    return SpectralReport(
        request=SpectralRequest(p=4, n=32, problem="wishart", lower=1e-4, options=(("target", 1e-3),)),
        kappa=3987.654,
        lower=1e-4,
        schedule=planted("coupled_pe", radii or [0.9999, 0.82, 0.05, 4e-4], products=5),
        baseline=planted("coupled_newton", [0.9999, 1.2, 0.3, 0.09, 0.004], products=4),
    )


def test_golden() -> None:
    rendered = render_spectral(planted_report(), figure="spectral.svg")
    if os.environ.get("IROOT_UPDATE_GOLDENS") == "1":
        GOLDEN.write_text(rendered, encoding="utf-8")
    assert rendered == GOLDEN.read_text(encoding="utf-8")


# --- figures ----------------------------------------------------------------------------------------------------------


def same(curve: SpectralCurve, start: list[float], maps: Sequence[Callable[[float], float]]) -> None:
    """Every figure of a curve against the map of each step, applied to the eigenvalues one by one."""
    scale = (curve.steps[0].largest or 0.0) / max(start)
    y = [value * scale for value in start]
    assert len(curve.steps) == len(maps) + 1
    for t, step in enumerate(curve.steps):
        low, high = min(y), max(y)
        assert step.smallest == pytest.approx(low, rel=1e-8)
        assert step.largest == pytest.approx(high, rel=1e-8)
        assert step.exact_smallest == pytest.approx(low)
        assert step.exact_largest == pytest.approx(high)
        assert step.radius == pytest.approx(max(abs(1 - v) for v in y), rel=1e-8, abs=1e-12)
        assert step.log_ratio == pytest.approx(math.log(high / low), rel=1e-6, abs=1e-12)
        assert step.within_10 == pytest.approx(sum(abs(1 - v) <= 0.1 for v in y) / len(y))
        assert step.within_1 == pytest.approx(sum(abs(1 - v) <= 0.01 for v in y) / len(y))
        if t < len(maps):
            y = [maps[t](value) for value in y]


def schedule_map(step: Step, y: float) -> float:
    return float(y * step.at(y) ** step.p)


def quintic_map(quintic: OddQuintic, y: float) -> float:
    a, b, c = quintic
    return y * (a + b * y + c * y * y) ** 2


@pytest.mark.parametrize("p", [1, 2, 4])
def test_the_figures_follow_the_scalar_recurrence(p: int) -> None:
    request = SpectralRequest(p=p, n=N, problem="logspace_1e3", precision="fp64", options=(("target", 1e-4),))
    found = spectral_report(request)
    assert found.kappa == pytest.approx(KAPPA, rel=1e-9)
    assert found.lower == pytest.approx(0.95 / KAPPA, rel=1e-9)
    eigenvalues = [KAPPA ** (-i / (N - 1)) for i in range(N)]
    workload = Workload(m=N, n=N, p=p, precision="fp64", lower=found.lower)
    steps = planned_schedule(workload, ScheduleOptions(target=1e-4)).steps
    same(found.schedule, eigenvalues, [functools.partial(schedule_map, step) for step in steps])
    newton = len(found.baseline.steps) - 1
    same(found.baseline, eigenvalues, [lambda y: y * ((p + 1 - y) / p) ** p] * newton)
    reached = found.baseline.steps[-1].smallest
    assert reached is not None
    assert 1 - reached ** (1 / p) <= 1e-4


def test_a_table_follows_its_own_quintics() -> None:
    found = spectral_report(
        SpectralRequest(table="polar_express", steps=4, n=N, problem="logspace_1e3", precision="fp64")
    )
    maps = [functools.partial(quintic_map, quintic) for quintic in named_table("polar_express").take(4)]
    same(found.schedule, [KAPPA ** (-i / (N - 1)) for i in range(N)], maps)
    assert [step.products for step in found.schedule.steps] == [1, 2, 6, 10, 14]


def test_what_rounding_does_is_seen_beside_what_it_does_not() -> None:
    """Inverse Newton in bfloat16 at kappa 1e4 leaves the small end where rounding put it; the graded form does not."""
    found = spectral_report(SpectralRequest(method="graded_pe", n=64, precision="bf16_emulated"))
    graded, newton = found.schedule.steps[-1], found.baseline.steps[-1]
    assert newton.exact_smallest == pytest.approx(1.0, abs=1e-2)
    assert graded.radius is not None
    assert graded.radius < 0.1
    assert newton.radius is None or newton.radius > 3 * graded.radius


def test_a_radius_must_stay_reached() -> None:
    curve = planted("x", [0.9, 0.05, 0.2, 0.03, 0.001], products=2)
    step = curve.reaching(0.1)
    assert step is not None
    assert step.step == 3
    assert curve.reaching(1e-4) is None
    assert planted("x", [0.9, 0.001, None], products=2).reaching(0.1) is None


def test_the_bottom_line_says_who_never_gets_there() -> None:
    assert bottom_line(planted_report()) == (
        "rho(I - Y) stays at most 0.01 after 3 steps (16 products) of coupled_pe, against 4 steps (17 products) of "
        "coupled_newton: 0.94 of the products."
    )
    assert bottom_line(planted_report([0.9, 0.3])) == (
        "coupled_pe never gets there: rho(I - Y) is 3.0e-01 after its last step."
    )
    assert bottom_line(planted_report([0.9, None])) == "coupled_pe never gets there: rho(I - Y) is not finite."
    alone = planted_report().model_copy(update={"baseline": planted("coupled_newton", [0.9, 0.5], products=4)})
    assert bottom_line(alone).endswith("of coupled_pe; coupled_newton never gets there.")


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_plot(tmp_path: Path, suffix: str) -> None:
    written = [
        plot(planted_report(radii), tmp_path / f"{i}.{suffix}").read_bytes()
        for i, radii in enumerate((None, None, [0.9, None]))
    ]
    assert written[0] == written[1] != written[2]
    assert written[0].startswith(b"\x89PNG" if suffix == "png" else b"<?xml")


# --- the command ------------------------------------------------------------------------------------------------------


def call(*arguments: object) -> str:
    app = typer.Typer()
    app.command("report")(command)
    result = CliRunner().invoke(app, ["--spectral", *map(str, arguments)])
    if isinstance(result.exception, Exception):
        raise result.exception
    return result.stdout


def test_the_command_writes_a_report_and_its_figure(tmp_path: Path) -> None:
    sizes = ("--n", 16, "--kappa", 250, "--store", tmp_path / "s.duckdb")
    path = Path(call(*sizes, "--option", "degrees=2,4").strip())
    assert path.parent == tmp_path / "spectral"
    assert path.name.startswith("coupled_pe-fp32-p2-logspace_2.5e2-n16-")
    written = path.read_text(encoding="utf-8")
    assert f"]({path.stem}.svg)" in written
    assert "| Method | `coupled_pe`, degrees=(2, 4), normalised by `square` |" in written
    assert path.with_suffix(".svg").is_file()
    plain = json.loads(call(*sizes, "--lower", 0.002, "-o", tmp_path / "a.md", "--plot", tmp_path / "f" / "b.png",
                            "--json"))  # fmt: skip
    assert plain["figure"] == str(tmp_path / "f" / "b.png")
    assert plain["report"]["lower"] == 0.002
    steps = plain["report"]["schedule"]["steps"]
    assert [step["step"] for step in steps] == list(range(len(steps)))
    assert "](f/b.png)" in (tmp_path / "a.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--method", "eigh"], UnknownNameError, "unknown method with a coupled iterate 'eigh'"),
        (["--table", "polar_expres"], UnknownNameError, "did you mean 'polar_express'"),
        (["--table", "polar_express", "--p", "4"], InvalidInputError, "must be run with p = 2, got p = 4"),
        (["--table", "polar_express", "--option", "target=0.1"], UsageError, "leave the method and its options out"),
        (["--steps", "3"], UsageError, "steps are those of a table"),
        (["--precision", "bf16"], UnsupportedError, "'bf16_emulated' runs here"),
        (["--method", "graded_pe"], InvalidInputError, "got precision 'fp32'"),
        (["--problem", "gaussian"], InvalidInputError, "has no spd operands"),
        (["--problem", "wishart", "--kappa", "9"], UsageError, "give --problem or --kappa, got both: 'wishart' and 9"),
        (["--lower", "0"], UsageError, r"--lower: must be in \(0, 1\], got 0"),
        (["--option", "degree=2"], UnknownNameError, "did you mean 'degrees'"),
        (["--plot", "a.txt"], UsageError, "the suffix must be one of"),
        (["20250131-235959-quick-0a1b"], UsageError, "not on a stored run; remove RUN"),
        (["--against", "baseline", "--force"], UsageError, "remove --against, --force"),
    ],
)
def test_wrong_use(arguments: list[str], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        call("--n", "16", "--store", tmp_path / "s.duckdb", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_its_flags_need_spectral(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--p, --kappa: only with --spectral"):
        command(p=2, kappa=3.0, store=tmp_path / "s.duckdb")
