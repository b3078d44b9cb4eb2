"""`iroot tune` as a user calls it: files that methods and manifests load, resumed searches, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch

from harness.cli import main
from harness.cli.tune import MadeForChoice, ObjectiveChoice
from harness.errors import UsageError
from harness.manifest import parse_manifest
from iroot.coefficients import MadeFor
from iroot.ops import make_ops
from iroot.registry import Operands, get_method
from iroot.schedules import Design, compose_steps
from iroot.table_files import read_polar_table, read_schedule, shipped_tables
from iroot.tuning import Objective

TINY = ["--steps", "2", "--population", "2", "--shapes", "8x8,6x12", "--held-out", "10x10", "--samples", "1"]


def searched(path: Path, generations: int, *more: str) -> int:
    return main(["tune", "polar", str(path), *TINY, "--generations", str(generations), *more])


def test_a_schedule_file_is_the_schedule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.toml"
    arguments = ["--p", "2", "--lower", "1e-3", "--steps", "3", "--degrees", "2,4", "--cushion", "0.05"]
    assert main(["tune", "schedule", str(path), *arguments, "--json"]) == 0
    expected = compose_steps(Design(p=2, lower=1e-3, degrees=(2, 4), cushion=0.05), steps=3)
    assert read_schedule(path).steps == expected.steps
    shown = json.loads(capsys.readouterr().out)
    assert (shown["degrees"], shown["products"], shown["error"]) == ([2, 4, 4], expected.products, expected.error)
    assert 'command = "iroot tune schedule s.toml --p 2 --lower 0.001 --steps 3' in path.read_text()


def test_the_cheapest_degrees(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.toml"
    arguments = ["--p", "2", "--lower", "1e-2", "--target", "1e-3", "--degrees", "cheapest"]
    assert main(["tune", "schedule", str(path), *arguments]) == 0
    assert [step.degree for step in read_schedule(path).steps] == [2, 8]
    assert "7 products" in capsys.readouterr().out


def test_a_resumed_search_writes_the_same_table(tmp_path: Path) -> None:
    assert searched(tmp_path / "whole.toml", 6) == 0
    state = tmp_path / "state.json"
    # The first part of a longer search: the state outlives the table where it was copied aside.
    assert searched(tmp_path / "part.toml", 3, "--state", str(state)) == 0
    assert not state.exists()
    from harness.cli.tune import _shapes
    from iroot.tuning import PolarSearch, Settings, run
    from iroot.tuning_inputs import Sample

    sample = Sample(kinds=("normal", "uniform", "levy", "bernoulli"), shapes=_shapes("8x8,6x12", "--shapes"), samples=1)
    settings = Settings(sample=sample, made_for="aol", start="turbo_muon", steps=2, spread=0.6, population=2)
    run(PolarSearch(settings), generations=4, state_file=state, observe=lambda _: None)
    assert searched(tmp_path / "resumed.toml", 6, "--state", str(state)) == 0
    whole, resumed, part = (read_polar_table(tmp_path / f"{name}.toml") for name in ("whole", "resumed", "part"))
    assert resumed.coefficients == whole.coefficients != part.coefficients
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part.toml", "resumed.toml", "whole.toml"]


def test_a_tuned_table_in_a_method_and_in_a_manifest(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    assert searched(path, 2, "--made-for", "square", "--start", "jiacheng_you") == 0
    spec = get_method("polar", "newton_schulz")
    options = spec.make_options({"coefficients": str(path)})
    assert (options.recipe().normalisation, len(options.recipe().steps)) == ("square", 2)
    G = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    assert spec.function(Operands(A=G), make_ops("fp32", torch.device("cpu")), options).isfinite().all()
    manifest = (
        'name = "m"\n[[sweep]]\ntask = "polar"\nmethod = "newton_schulz"\nprecision = "fp32"\nn = 16\n'
        'problem = "gaussian"\noptions = [{coefficients = "jiacheng_you"}, {coefficients = "%s"}]\n'
    )
    assert len(parse_manifest(manifest % path, origin="m.toml").sweep[0].options) == 2
    with pytest.raises(UsageError, match=r"m\.toml.*no table file absent\.toml; write one with `iroot tune`"):
        parse_manifest(manifest % "absent.toml", origin="m.toml")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["schedule", "x.toml", "--p", "2", "--lower", "1e-3"], "exactly one of --steps and --target"),
        (["schedule", "x.toml", "--p", "2", "--lower", "2", "--steps", "3"], "lower must be in"),
        (["schedule", "x.json", "--p", "2", "--lower", "1e-3", "--steps", "3"], "must end in .toml"),
        (["schedule", "no/x.toml", "--p", "2", "--lower", "1e-3", "--steps", "3"], "no folder no"),
        (["schedule", "x.toml", "--p", "2", "--lower", "1e-3", "--steps", "3", "--degrees", "two"], "must be integers"),
        (["schedule", "x.toml", "--p", "2", "--lower", "1e-3", "--steps", "3", "--degrees", "cheapest"],
         "cheapest needs --target"),
        (["polar", "x.toml", "--kinds", "normall"], "did you mean 'normal'"),
        (["polar", "x.toml", "--shapes", "8"], "must be shapes MxN"),
        (["polar", "x.toml", "--start", "turbo_moon"], "did you mean 'turbo_muon'"),
    ],
)  # fmt: skip
def test_wrong_use(
    arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *arguments]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.toml"
    path.write_text("mine")
    assert searched(path, 1) == 2
    assert "exists; remove it, or name another file" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_choices_are_those_of_the_library() -> None:
    assert [str(choice) for choice in MadeForChoice] == list(get_args(MadeFor))
    assert [str(choice) for choice in ObjectiveChoice] == list(get_args(Objective))


def test_shipped_tables_name_the_command_that_wrote_them() -> None:
    import iroot.table_files

    for name in shipped_tables():
        text = (iroot.table_files.SHIPPED_FOLDER / f"{name}.toml").read_text(encoding="utf-8")
        assert f'command = "iroot tune polar {name}.toml --made-for ' in text
