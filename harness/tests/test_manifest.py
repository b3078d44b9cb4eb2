"""Manifests: what is read, what is written back, and the exact message for every bad input."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.manifest import (
    Manifest,
    load_manifest,
    manifest_from_flags,
    parse_manifest,
    shipped_manifests,
)
from harness.records import TimingPolicy

POLAR = """
[[sweep]]
task = "polar"
method = "polar_express"
precision = "bf16"
n = 64
problem = "gaussian"
"""
ROOT = """
[[sweep]]
task = "inverse_root"
method = "coupled_pe"
precision = "fp32"
p = 2
n = 64
problem = "wishart"
"""
FULL = """
name = "full"
description = "Every field."
launches = 4
seed = 7
seeds = 2
target_error = 1e-2
timeout_s = 30.0

[timing]
samples = 10
cold = true

[gate]
threshold = 0.03
thresholds = { polar = 0.05 }
eager = "gates"

[[sweep]]
task = ["polar", "inverse_root"]
method = ["polar_express", "coupled_pe"]
precision = ["fp32", "bf16"]
p = [2, 4]
n = [32, 64]
shape = [[32, 64]]
batch = [1, 2]
problem = "logspace_*"
mode = ["graph", "eager"]
options = [{}]
device = "cuda"
exclude = ["n>=64,p=4"]
expect = [{ filter = "precision=bf16", outcome = "nonfinite" }]
timing.samples = 6
seeds = 3
target_error = 0.1
timeout_s = 10.0
threshold = 0.1
"""


def read(text: str) -> Manifest:
    return parse_manifest(text, origin="quick.toml")


def refusal(text: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(text)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_scalars_are_lists_of_one_and_the_name_is_the_files() -> None:
    manifest = read(POLAR)
    assert (manifest.name, manifest.launches, manifest.seeds) == ("quick", 6, 5)
    assert manifest.timing == TimingPolicy()
    (sweep,) = manifest.sweep
    assert (sweep.task, sweep.n, sweep.batch, sweep.mode, sweep.p) == (("polar",), (64,), (1,), ("auto",), ())


def test_a_single_shape_needs_no_second_bracket() -> None:
    assert read(POLAR.replace("n = 64", "shape = [32, 64]")).sweep[0].shape == ((32, 64),)


@pytest.mark.parametrize("text", [POLAR, ROOT, FULL])
def test_to_toml_round_trips(text: str) -> None:
    manifest = read(text)
    again = read(manifest.to_toml())
    assert again == manifest
    assert again.manifest_hash == manifest.manifest_hash
    assert tomllib.loads(again.to_toml()) == tomllib.loads(manifest.to_toml())


def test_hash_follows_what_is_measured_and_not_the_description() -> None:
    manifest = read(FULL)
    assert len(manifest.manifest_hash) == 16
    assert read(FULL.replace("Every field.", "Other words.")).manifest_hash == manifest.manifest_hash
    assert read(FULL.replace("samples = 10", "samples = 11")).manifest_hash != manifest.manifest_hash
    assert read(FULL.replace("name = ", "# name = ")).manifest_hash != manifest.manifest_hash


def test_timing_overrides_leave_the_rest() -> None:
    manifest = read(FULL)
    assert manifest.sweep[0].timing.applied_to(manifest.timing) == TimingPolicy(samples=6, cold=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (POLAR + POLAR.replace("bf16", "bf61"), "sweep[1].precision: unknown 'bf61'; did you mean 'bf16'?"),
        (POLAR.replace('"polar"', '"poler"'), "sweep[0].task: unknown 'poler'; did you mean 'polar'?"),
        (
            POLAR.replace("polar_express", "polar_expres"),
            "sweep[0].method: unknown 'polar_expres'; did you mean 'polar_express'? (task polar)",
        ),
        (
            POLAR.replace("polar_express", "role:control"),
            "sweep[0].method: no method of polar is meant by 'role:control'",
        ),
        (POLAR.replace("polar_express", "zz*"), "sweep[0].method: no method of polar is meant by 'zz*'"),
        (POLAR.replace("gaussian", "gausian"), "sweep[0].problem: unknown 'gausian'; did you mean 'gaussian'?"),
        (POLAR.replace("precision =", "precison ="), "sweep[0].precison: unknown key; did you mean 'precision'?"),
        ("[timng]\nsamples = 5\n" + POLAR, "timng: unknown key; did you mean 'timing'?"),
        ("[timing]\nsample = 5\n" + POLAR, "timing.sample: unknown key; did you mean 'samples'?"),
        ("[timing]\nsamples = 3\n" + POLAR, "timing.samples: must be >= 5, got 3"),
        ("[gate]\nthreshold = 1.5\n" + POLAR, "gate.threshold: must be < 1, got 1.5"),
        ("[gate]\nthresholds = {poler = 0.1}\n" + POLAR, "gate.thresholds: unknown 'poler'; did you mean 'polar'?"),
        ("[gate]\neager = 'gate'\n" + POLAR, "gate.eager: unknown 'gate'; did you mean 'gates'?"),
        ("launches = 0\n" + POLAR, "launches: must be >= 1, got 0"),
        ("launches = 2.5\n" + POLAR, "launches: must be an integer, got 2.5"),
        ("name = 'My sweep'\n" + POLAR, "name: must be lower-case letters, digits, '-' and '_', got 'My sweep'"),
        (ROOT.replace("p = 2", "p = 0"), "sweep[0].p: must be >= 1, got 0"),
        (
            ROOT.replace("p = 2", ""),
            "sweep[0].p: is required by task 'inverse_root'; give the roots, e.g. p = [2, 4]",
        ),
        (POLAR + "p = 2", "sweep[0].p: task 'polar' takes no root, got 2; remove p"),
        (POLAR + "k = [2, 3]", "sweep[0].k: task 'polar' takes no right-hand side, got [2, 3]; remove k"),
        (
            ROOT.replace("inverse_root", "inverse_apply").replace("coupled_pe", "eigh"),
            "sweep[0].k: is required by task 'inverse_apply'; give the columns of B, e.g. k = 16",
        ),
        (POLAR.replace("n = 64", "n = 0"), "sweep[0].n: must be >= 1, got 0"),
        (POLAR.replace("n = 64", "n = '64'"), "sweep[0].n: must be an integer, got '64'"),
        (
            POLAR.replace("n = 64", ""),
            "sweep[0].n: is required; give square sizes n, or shape = [[m, n], ...]",
        ),
        (POLAR.replace("n = 64", "shape = [[1, 2, 3]]"), "sweep[0].shape: must be [m, n] pairs, got [1, 2, 3]"),
        (POLAR.replace("n = 64", "shape = '32x64'"), "sweep[0].shape: must be [m, n] pairs, got '32x64'"),
        (
            ROOT.replace("n = 64", "shape = [32, 64]"),
            "sweep[0].shape: task 'inverse_root' needs square matrices, got [32, 64]; use n = 64",
        ),
        (POLAR + "mode = 'grpah'", "sweep[0].mode: unknown 'grpah'; did you mean 'graph'?"),
        (POLAR + "batch = []", "sweep[0].batch: must not be empty"),
        (POLAR.replace('"bf16"', "[]"), "sweep[0].precision: must not be empty"),
        (
            POLAR + "exclude = 'taks=polar'",
            "sweep[0].exclude: unknown key 'taks' in 'taks=polar'; did you mean 'task'?",
        ),
        (
            POLAR + "expect = {filter = 'n>1', outcome = 'nonfinit'}",
            "sweep[0].expect.outcome: unknown 'nonfinit'; did you mean 'nonfinite'?",
        ),
        (POLAR + "seeds = 'many'", "sweep[0].seeds: must be an integer, got 'many'"),
        (POLAR.replace('precision = "bf16"', ""), "sweep[0].precision: is required"),
        ("launches = 3", "sweep: is required"),
        ("sweep = []", "sweep: must not be empty"),
        ("name = ", "not valid TOML: Invalid value (at end of document)"),
        ("launches = 3\nseeds == 4", "not valid TOML: Invalid value (at line 2, column 8)"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    assert refusal(text) == f"quick.toml: {message}"


def test_a_problem_of_the_wrong_kind_lists_the_fitting_ones() -> None:
    message = refusal(POLAR.replace("gaussian", "wishart"))
    assert message.startswith(
        "quick.toml: sweep[0].problem: 'wishart' poses no rectangular matrix for task 'polar'; fitting: "
    )
    assert "gaussian" in message.split("fitting: ")[1].split(", ")


def test_an_unknown_option_names_the_method() -> None:
    message = refusal(POLAR + "options = {stepps = 3}")
    assert message.startswith("quick.toml: sweep[0].options: unknown option of polar/polar_express 'stepps'; ")


def test_every_defect_gets_its_line() -> None:
    lines = refusal(POLAR.replace("bf16", "bf61").replace("64", "0")).splitlines()
    assert lines == [
        "quick.toml: sweep[0].precision: unknown 'bf61'; did you mean 'bf16'?",
        "quick.toml: sweep[0].n: must be >= 1, got 0",
    ]


def test_loads_a_file_and_names_it_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(POLAR)
    assert load_manifest(str(path)).name == "mine"
    path.write_text(POLAR.replace("bf16", "bf61"))
    with pytest.raises(UsageError, match=r"mine\.toml: sweep\[0\]\.precision: unknown 'bf61'"):
        load_manifest(str(path))


def test_a_missing_manifest_names_the_nearest_shipped_one() -> None:
    shipped = ", ".join(shipped_manifests())
    with pytest.raises(UsageError) as caught:
        load_manifest("quik")
    assert str(caught.value) == (
        f"no manifest 'quik'; did you mean 'quick'? shipped: {shipped}; or give the path of a TOML file"
    )


def test_an_unreadable_manifest_says_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the manifest: Is a directory"):
        load_manifest(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(UsageError, match="cannot read the manifest: not UTF-8 text"):
        load_manifest(str(tmp_path / "latin.toml"))


def test_flags_make_the_same_manifest_as_a_file() -> None:
    table = {"task": ["polar"], "method": ["polar_express"], "precision": ["bf16"], "n": [64], "problem": ["gaussian"]}
    manifest = manifest_from_flags(table, launches=2)
    assert manifest.sweep == read(POLAR).sweep
    assert manifest.launches == 2
    assert manifest.name == manifest_from_flags(table).name
    assert manifest.name != manifest_from_flags({**table, "n": [65]}).name
    assert parse_manifest(manifest.to_toml(), origin=manifest.name).sweep == manifest.sweep


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precision": ["bf61"]}, "--precision: unknown 'bf61'; did you mean 'bf16'?"),
        ({"n": ["x"]}, "--n: must be an integer, got 'x'"),
        ({"p": [2]}, "--p: task 'polar' takes no root, got 2; remove p"),
        ({"target_error": -1.0}, "--target-error: must be > 0, got -1.0"),
        ({"seeds": 0}, "--seeds: must be >= 1, got 0"),
    ],
)
def test_flags_are_named_in_messages(change: dict[str, object], message: str) -> None:
    table = {"task": ["polar"], "method": ["polar_express"], "precision": ["bf16"], "n": [64], "problem": ["gaussian"]}
    with pytest.raises(UsageError) as caught:
        manifest_from_flags({**table, **change})
    assert str(caught.value) == message
