"""Plans: which cases a manifest gives, with which ids, policies and controls."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.manifest import DeviceKind, Manifest, parse_manifest
from harness.records import Mode, PlannedCase, TimingPolicy
from harness.sweep import expand, plan
from iroot.precision import PRECISIONS
from iroot.registry import get_method, methods

ROOTS = """
[[sweep]]
task = "inverse_root"
method = ["coupled_pe", "eigh"]
precision = ["fp32", "bf16"]
p = [2, 4]
n = [32, 64]
problem = "wishart"
"""
POLAR = """
[[sweep]]
task = "polar"
method = "polar_express"
precision = "bf16"
shape = [[32, 64]]
problem = "gaussian"
"""


def read(text: str) -> Manifest:
    return parse_manifest(text, origin="quick.toml")


def swept(cases: tuple[PlannedCase, ...]) -> list[PlannedCase]:
    return [planned for planned in cases if not planned.control]


def ids(cases: tuple[PlannedCase, ...]) -> list[str]:
    return [planned.case.case_id for planned in swept(cases)]


def refusal(text: str, *, device_kind: DeviceKind = "cpu", filter: str | None = None) -> str:
    with pytest.raises(UsageError) as caught:
        plan(read(text), device_kind=device_kind, filter=filter)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_product_in_the_order_declared_without_what_is_not_served() -> None:
    expansion = expand(read(ROOTS), device_kind="cuda")
    # coupled_pe: 2 precisions x 2 roots x 2 sizes; eigh serves no bf16.
    assert len(swept(expansion.cases)) == 8 + 4
    assert ids(expansion.cases)[0] == "inverse_root/coupled_pe/fp32/p=2/32x32/wishart/graph"
    assert ids(expansion.cases)[-1] == "inverse_root/eigh/fp32/p=4/64x64/wishart/eager"
    assert expansion.left_out == {"inverse_root/eigh does not serve bf16": 4}


def test_ids_of_batches_columns_and_options() -> None:
    (polar,) = ids(plan(read(POLAR + "batch = 4"), device_kind="cuda"))
    assert polar == "polar/polar_express/bf16/32x64xb4/gaussian/graph"
    apply = ROOTS.replace("inverse_root", "inverse_apply").replace('["coupled_pe", "eigh"]', '"eigh"') + "k = 8"
    assert ids(plan(read(apply), device_kind="cpu"))[0] == "inverse_apply/eigh/fp32/p=2/32x32xk8/wishart/eager"
    gemm = POLAR.replace("polar_express", "matmul").replace("polar", "gemm")
    assert ids(plan(read(gemm), device_kind="cuda")) == ["gemm/matmul/bf16/32x64xk64/gaussian/graph"]


def test_options_that_differ_from_the_defaults_become_part_of_the_case() -> None:
    default = get_method("polar", "polar_express").options()
    text = POLAR + f"options = [{{steps = {default.steps}}}, {{steps = {default.steps + 2}}}]"
    first, second = swept(plan(read(text), device_kind="cuda"))
    assert first.case.options == ()
    assert second.case.options == (("steps", default.steps + 2),)
    assert second.case.case_id.startswith(first.case.case_id + "#")


@pytest.mark.parametrize(
    ("device_kind", "mode", "expected"),
    [
        ("cuda", "auto", {"coupled_pe": Mode.GRAPH, "eigh": Mode.EAGER}),
        ("cpu", "auto", {"coupled_pe": Mode.EAGER, "eigh": Mode.EAGER}),
        ("cuda", "graph", {"coupled_pe": Mode.GRAPH}),
        ("cuda", "compile", {"coupled_pe": Mode.COMPILE, "eigh": Mode.COMPILE}),
    ],
)
def test_modes(device_kind: DeviceKind, mode: str, expected: dict[str, Mode]) -> None:
    cases = swept(plan(read(ROOTS + f"mode = '{mode}'"), device_kind=device_kind))
    assert {planned.case.method: planned.case.mode for planned in cases} == expected


def test_names_are_planned_anywhere_and_globs_where_there_is_a_unit() -> None:
    def precisions(pattern: str, device_kind: DeviceKind) -> set[str]:
        text = POLAR.replace('"bf16"', f'"{pattern}"')
        return {planned.case.precision for planned in swept(plan(read(text), device_kind=device_kind))}

    assert precisions("bf16", "cpu") == {"bf16"}
    assert precisions("bf16*", "cpu") == {"bf16_emulated", "bf16x3_emulated"}
    assert precisions("bf16*", "cuda") == {"bf16", "bf16x3"}
    served = set(get_method("polar", "polar_express").precisions)
    assert precisions("all", "cpu") == {name for name in served if PRECISIONS[name].cpu}
    assert precisions("all", "cuda") == {name for name in served if PRECISIONS[name].capability}


def test_roles_globs_and_all_name_methods_but_never_controls() -> None:
    def named(pattern: str) -> set[str]:
        text = POLAR.replace("polar_express", pattern).replace('"bf16"', '"fp32"')
        return {planned.case.method for planned in swept(plan(read(text), device_kind="cuda"))}

    specs = [spec for spec in methods("polar") if "fp32" in spec.precisions]
    assert named("all") == {spec.name for spec in specs if spec.role != "control"}
    assert named("role:opponent") == {spec.name for spec in specs if spec.role == "opponent"}
    assert named("polar_*") == {spec.name for spec in specs if spec.name.startswith("polar_")}


def test_several_tasks_take_the_coordinates_they_have() -> None:
    text = """
    [[sweep]]
    task = ["polar", "inverse_root"]
    method = ["polar_express", "coupled_pe"]
    precision = "fp32"
    p = [2, 4]
    shape = [[32, 32], [32, 64]]
    problem = ["gaussian", "wishart", "logspace_1e2"]
    """
    cases = [planned.case for planned in swept(plan(read(text), device_kind="cpu"))]
    assert {(c.m, c.n, c.problem, c.p) for c in cases if c.task == "polar"} == {
        (32, n, problem, None) for n in (32, 64) for problem in ("gaussian", "logspace_1e2")
    }
    assert {(c.m, c.n, c.problem, c.p) for c in cases if c.task == "inverse_root"} == {
        (32, 32, problem, p) for problem in ("wishart", "logspace_1e2") for p in (2, 4)
    }


@pytest.mark.parametrize("device_kind", ["cuda", "cpu"])
def test_controls_join_every_plan_and_pass_every_filter(device_kind: DeviceKind) -> None:
    cases = plan(read(ROOTS), device_kind=device_kind, filter="method=eigh,n=32")
    controls = [planned for planned in cases if planned.control]
    assert {planned.case.task for planned in controls} == {"gemm", "copy"}
    assert all(not planned.gates for planned in controls)
    assert {planned.case.mode for planned in controls} == {Mode.GRAPH if device_kind == "cuda" else Mode.EAGER}
    if device_kind == "cuda":
        (copy,) = (planned.case for planned in controls if planned.case.task == "copy")
        assert 4 * copy.m * copy.n > 2 * 50e6, "a copy must not fit the 50 MB L2 of an H100"


def test_a_sweep_that_declares_a_control_gets_it_once() -> None:
    (control,) = (c for c in plan(read(ROOTS), device_kind="cpu") if c.control and c.case.task == "gemm")
    text = f"""
    [[sweep]]
    task = "gemm"
    method = ["cublas", "matmul"]
    precision = "fp32"
    n = {control.case.n}
    problem = "gaussian"
    """
    cases = plan(read(text), device_kind="cpu")
    assert [planned for planned in cases if planned.case.case_id == control.case.case_id] == [control]
    assert [planned.case.method for planned in swept(cases)] == ["matmul"]


def test_policies_of_a_case() -> None:
    head = "seeds = 2\ntarget_error = 0.5\ntimeout_s = 9.0\n[gate]\nthresholds = {polar = 0.05}\n"
    sweep_policy = "seeds = 3\ntarget_error = 0.25\ntimeout_s = 8.0\nthreshold = 0.07\ntiming.samples = 7\n"
    polar, root, *_ = swept(plan(read(head + POLAR + ROOTS), device_kind="cuda"))
    assert (polar.threshold, root.threshold) == (0.05, 0.02)
    assert (polar.seeds, polar.target_error, polar.timeout_s, polar.timing) == (2, 0.5, 9.0, TimingPolicy())
    (own,) = swept(plan(read(head + POLAR + sweep_policy), device_kind="cuda"))
    assert (own.seeds, own.target_error, own.timeout_s, own.threshold) == (3, 0.25, 8.0, 0.07)
    assert own.timing == TimingPolicy(samples=7)


@pytest.mark.parametrize(
    ("device_kind", "mode", "eager", "gates"),
    [
        ("cuda", "graph", "advisory", True),
        ("cuda", "eager", "advisory", False),
        ("cuda", "compile", "advisory", False),
        ("cuda", "eager", "gates", True),
        ("cpu", "eager", "advisory", True),
    ],
)
def test_what_gates(device_kind: DeviceKind, mode: str, eager: str, gates: bool) -> None:
    text = f"[gate]\neager = '{eager}'\n{POLAR}mode = '{mode}'\n"
    (planned,) = swept(plan(read(text), device_kind=device_kind))
    assert planned.gates is gates


def test_exclusions_and_expectations() -> None:
    rules = """
    exclude = ["method=eigh", "p=4,n=64"]
    expect = [
        { filter = "precision=bf16,n=64", outcome = "nonfinite" },
        { filter = "precision=bf16", outcome = "unsupported" },
    ]
    """
    cases = swept(plan(read(ROOTS + rules), device_kind="cuda"))
    assert {(c.case.precision, c.case.p, c.case.n): c.expect for c in cases} == {
        ("fp32", 2, 32): "ok",
        ("fp32", 2, 64): "ok",
        ("fp32", 4, 32): "ok",
        ("bf16", 2, 32): "unsupported",
        ("bf16", 2, 64): "nonfinite",
        ("bf16", 4, 32): "unsupported",
    }


def test_a_filter_narrows() -> None:
    cases = plan(read(ROOTS), device_kind="cpu", filter="p=2,n>=64,method~pe")
    assert ids(cases) == [f"inverse_root/coupled_pe/{name}/p=2/64x64/wishart/eager" for name in ("fp32", "bf16")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            POLAR.replace("polar_express", "svd"),
            "quick.toml: sweep[0] has no case on a CPU: polar/svd does not serve bf16 (1)",
        ),
        (POLAR + "mode = 'graph'", "quick.toml: sweep[0] has no case on a CPU: CUDA graphs need a GPU (1)"),
        (POLAR + "exclude = 'm<64'", "quick.toml: sweep[0] has no case on a CPU: exclude 'm<64' (1)"),
        (
            POLAR + "device = 'cuda'",
            "quick.toml: no sweep is for a CPU (device = cuda); add one with device = 'cpu' or 'any'",
        ),
        (
            POLAR + POLAR,
            "quick.toml: sweep[1]: case declared twice and by sweep[0]: "
            "polar/polar_express/bf16/32x64/gaussian/eager; remove or exclude one",
        ),
        (
            POLAR + "batch = [1, 1]",
            "quick.toml: sweep[0]: case declared twice: "
            "polar/polar_express/bf16/32x64/gaussian/eager; remove or exclude one",
        ),
    ],
)
def test_refuses(text: str, message: str) -> None:
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ("n>=4096", "--filter 'n>=4096' keeps none of the 1 cases of quick on cpu"),
        ("taks=polar", "--filter: unknown key 'taks' in 'taks=polar'; did you mean 'task'?"),
        ("n=7", "--filter 'n=7' keeps none of the 1 cases of quick on cpu: no case has n '7'; they have: 64"),
        ("task=polar|polr", "--filter 'task=polar|polr', quick on cpu: no case has task 'polr'; did you mean 'polar'?"),
        ("task=polar|solve", "--filter 'task=polar|solve', quick on cpu: no case has task 'solve'; they have: polar"),
        (
            "task=gemm",
            "--filter 'task=gemm' keeps none of the 1 cases of quick on cpu: "
            "control kernels, which it names, are measured with every filter",
        ),
    ],
)
def test_refuses_filters(filter: str, message: str) -> None:
    assert refusal(POLAR, filter=filter) == message


def test_a_filter_of_names_that_exist_and_do_not_go_together() -> None:
    both = ROOTS + POLAR
    assert (
        refusal(both, filter="task=polar,p=2") == "--filter 'task=polar,p=2' keeps none of the 13 cases of quick on cpu"
    )
    cases = plan(read(both), device_kind="cpu", filter="task=polar|inverse_root,n=64,method=polar_express|eigh")
    assert [planned.case.method for planned in swept(cases)] == ["eigh", "eigh", "polar_express"]
    assert len(swept(plan(read(POLAR), device_kind="cpu", filter="task=polar|gemm"))) == 1  # a control is named, too
