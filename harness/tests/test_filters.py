"""Filter expressions: what matches, and the message for everything that does not parse."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.filters import KEYS, case_selector, flag_filter, parse_filter
from harness.records import Case, Mode

ROOT = Case(
    task="inverse_root", method="coupled_pe", precision="bf16", p=2, m=1024, n=1024, problem="wishart", mode=Mode.GRAPH
)
POLAR = Case(task="polar", method="svd", precision="fp32", m=2048, n=8192, batch=4, problem="gaussian", mode=Mode.EAGER)
GEMM = Case(task="gemm", method="matmul", precision="fp8_e4m3", m=64, n=64, k=16, problem="gaussian", mode=Mode.GRAPH)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task=polar", [POLAR]),
        ("task!=polar", [ROOT, GEMM]),
        ("task=polar|gemm", [POLAR, GEMM]),
        ("task!=polar|gemm", [ROOT]),
        ("precision~bf", [ROOT]),
        ("precision~bf|fp8", [ROOT, GEMM]),
        ("n>=1024", [ROOT, POLAR]),
        ("n>1024", [POLAR]),
        ("n<1024", [GEMM]),
        ("n<=1024", [ROOT, GEMM]),
        ("m=2048|64", [POLAR, GEMM]),
        ("batch=4", [POLAR]),
        ("k=16", [GEMM]),
        ("p=2", [ROOT]),
        ("p!=2", [POLAR, GEMM]),
        ("p>=1", [ROOT]),
        ("mode=eager", [POLAR]),
        ("problem=gaussian,n>=1024", [POLAR]),
        (" task = polar , n >= 1024 ", [POLAR]),
        ("case=gemm/matmul/fp8_e4m3/64x64xk16/gaussian/graph", [GEMM]),
        ("case~/svd/", [POLAR]),
        ("method=nothing", []),
        ("options=default", [ROOT, POLAR, GEMM]),
    ],
)
def test_matches(text: str, expected: list[Case]) -> None:
    wanted = parse_filter(text)
    assert [case for case in (ROOT, POLAR, GEMM) if wanted(case)] == expected


def test_options_match_by_their_text() -> None:
    tuned = ROOT.model_copy(update={"options": (("min_cushion", 0.05), ("target", 0.09))})
    assert [case for case in (ROOT, tuned) if parse_filter("options~target=0.09|steps")(case)] == [tuned]
    assert [case for case in (ROOT, tuned) if parse_filter("options=default")(case)] == [ROOT]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("task=polr", "no case has task 'polr'; did you mean 'polar'?"),
        ("n>=8,task=polar,method=svdd|eigh", "no case has method 'svdd'; did you mean 'svd'?"),
        ("mode=xxxx", "no case has mode 'xxxx'; they have: eager, graph"),
        ("task=polar,n>99999", ""),
        ("task~polr", ""),
        ("task!=polr", ""),
        ("task=polar|gemm|polr", "no case has task 'polr'; did you mean 'polar'?"),
        ("p=7", "no case has p '7'; they have: 2"),
        ("n=64|1024|100", "no case has n '100'; they have: 64, 1024, 8192"),
        ("n=0064,p=2", ""),
        ("n<7,n!=7", ""),
    ],
)
def test_a_name_that_no_case_has_is_named_with_the_nearest(text: str, hint: str) -> None:
    assert parse_filter(text).misnamed([ROOT, POLAR, GEMM]) == hint


def test_a_long_list_of_names_is_cut() -> None:
    """Sizes to the nearest, in order; names to the first."""
    sizes = [ROOT.model_copy(update={"m": 16 * i, "n": 16 * i}) for i in range(1, 21)]
    nearest = "96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272"
    assert parse_filter("n=180").misnamed(sizes) == f"no case has n '180'; they have: {nearest} and 8 more"
    assert (
        parse_filter("n=180")
        .misnamed(sizes[:12])
        .endswith("they have: " + ", ".join(str(16 * i) for i in range(1, 13)))
    )
    named = [ROOT.model_copy(update={"problem": f"spectrum_{i:02}"}) for i in range(20)]
    first = ", ".join(f"spectrum_{i:02}" for i in range(12))
    assert parse_filter("problem=xyz").misnamed(named) == f"no case has problem 'xyz'; they have: {first} and 8 more"


def test_of_long_names_three_are_shown() -> None:
    """Case ids, and options, whose commas would run together; one that is near stands alone."""
    fields = ROOT.model_dump(exclude={"m", "n"})
    sizes = [Case(**fields, m=16 * i, n=16 * i) for i in range(1, 6)]
    ids = sorted(case.case_id for case in sizes)
    shown = "; ".join(f"'{each}'" for each in ids[:3])
    assert parse_filter("case=no").misnamed(sizes) == (
        f"no case has case 'no'; there is {shown} and 2 more; ~ finds a part of one"
    )
    near = ids[0].replace("inverse", "invers")
    assert parse_filter(f"case={near}").misnamed(sizes[:1]) == (
        f"no case has case '{near}'; there is '{ids[0]}'; ~ finds a part of one"
    )


def test_a_coordinate_that_no_case_has() -> None:
    assert parse_filter("p=2").misnamed([POLAR, GEMM]) == "no case has p '2'; they have no p"


def test_what_is_cut_from_an_id_misnames_nothing() -> None:
    assert case_selector("nothing").misnamed([ROOT]) == ""
    assert case_selector("task=polr").misnamed([POLAR]) == "no case has task 'polr'; did you mean 'polar'?"


def test_a_flag_is_named_where_its_filter_cannot_be_read() -> None:
    assert flag_filter("--cases", "task=polar") == parse_filter("task=polar")
    with pytest.raises(UsageError, match=r"^--cases: unknown key 'taks' in 'taks=polar'; did you mean 'task'"):
        flag_filter("--cases", "taks=polar")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("taks=polar", "unknown key 'taks' in 'taks=polar'; did you mean 'task'?"),
        ("zzzzzz=1", f"unknown key 'zzzzzz' in 'zzzzzz=1'; known: {', '.join(KEYS)}"),
        ("size=3", f"unknown key 'size' in 'size=3'; known: {', '.join(KEYS)}"),
        ("polar", "cannot read 'polar'; write KEY OPERATOR VALUE, e.g. 'task=polar,n>=1024,precision~bf'"),
        ("", "cannot read ''; write KEY OPERATOR VALUE, e.g. 'task=polar,n>=1024,precision~bf'"),
        ("n>=1024,", "cannot read ''; write KEY OPERATOR VALUE, e.g. 'task=polar,n>=1024,precision~bf'"),
        ("task=", "'task=' has an empty value; write task=VALUE"),
        ("task=polar|", "'task=polar|' has an empty value; write task=VALUE"),
        ("task>polar", "'task' is a name and has no order, got 'task>polar'; use =, != or ~"),
        ("n~10", "'n' is an integer, got 'n~10'; use =, !=, <, <=, > or >="),
        ("n>=big", "'n' needs an integer, got 'big' in 'n>=big'"),
        ("n=1.5", "'n' needs an integer, got '1.5' in 'n=1.5'"),
        ("n==4", "'n' needs an integer, got '=4' in 'n==4'"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filter(text)
    assert str(caught.value) == message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("inverse", True),
        ("polar", False),
        ("coupled_pe/bf16/p=2/", True),  # '=', and yet no filter
        ("coupled_pe/bf16/p=4/", False),
        ("task=inverse_root,n>=512", True),
        ("method~newton", False),
    ],
)
def test_a_case_is_selected_by_a_part_of_its_id_or_by_a_filter(text: str, fits: bool) -> None:
    assert case_selector(text)(ROOT) is fits
