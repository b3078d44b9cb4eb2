"""Numbers and free text as reports print them."""

from __future__ import annotations

import math

import pytest

from harness.records import SourceIdentity
from harness.report import format as text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (1.234e-9, "1.23 ns"),
        (5e-11, "0.0500 ns"),
        (86e-6, "86.0 µs"),
        (999.4e-6, "999 µs"),
        (999.6e-6, "1.00 ms"),
        (0.0123, "12.3 ms"),
        (1.0, "1.00 s"),
        (86.04, "86.0 s"),
        (1234.0, "1234 s"),
        (math.inf, "inf s"),
    ],
)
def test_seconds(value: float | None, expected: str) -> None:
    assert text.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (0.0, "0"), (1.34e-3, "1.3e-03"), (2.0, "2.0e+00"), (math.inf, "inf"), (math.nan, "nan")],
)
def test_error(value: float | None, expected: str) -> None:
    assert text.error(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.931, "0.93"),
        (0.0861, "0.086"),
        (0.0999, "0.10"),
        (9.996, "10.0"),
        (11.67, "11.7"),
        (1234, "1234"),
    ],
)
def test_relative(value: float | None, expected: str) -> None:
    assert text.relative(value) == expected


def test_ratio_shows_less_than_a_threshold() -> None:
    assert text.ratio(0.9341) == "0.934"
    assert text.ratio(1.0) == "1.000"
    assert text.ratio(None) == "–"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0011, "1.10 ms"),
        (8.33, "8.33 s"),
        (79.3, "79 s"),
        (252.0, "4.2 min"),
        (11_160.0, "3.1 h"),
        (216_000.0, "2.5 days"),
        (8e18, "over 1,000 days"),
    ],
)
def test_duration(value: float | None, expected: str) -> None:
    assert text.duration(value) == expected


def test_interval() -> None:
    assert text.interval(0.9212, 0.9468) == "0.921 … 0.947"
    assert text.interval(None, 0.9468) == "– … 0.947"
    assert text.interval(None, None) == "–"
    assert text.interval(0.0512, 0.0534) == "0.051 … 0.053"


def test_an_interval_wider_than_a_factor_of_ten_is_printed_as_the_noise_it_is() -> None:
    assert text.interval(0.001, 1760.042) == "0.00 … >100"
    assert text.interval(0.3, 36.851) == "0.30 … 36.85"
    assert text.interval(0.3, 2.9) == "0.300 … 2.900"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "–"),
        (0.0, "0 %"),
        (0.0035, "0.35 %"),
        (0.02, "2.0 %"),
        (0.0996, "10 %"),
        (0.48, "48 %"),
        (-0.013, "-1.3 %"),
    ],
)
def test_percent(value: float | None, expected: str) -> None:
    assert text.percent(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (512, "512 B"), (2**20, "1.00 MiB"), (12 * 2**20, "12.0 MiB"), (85_045_870_592, "79.2 GiB")],
)
def test_size(value: int | None, expected: str) -> None:
    assert text.size(value) == expected


def test_tflops() -> None:
    assert [text.tflops(value) for value in (None, 0.4971, 44.74, 786.4)] == ["–", "0.497", "44.7", "786"]


def test_counts_and_listings() -> None:
    assert [text.count(number, "case") for number in (0, 1, 12345)] == ["0 cases", "1 case", "12,345 cases"]
    assert text.count(2, "launch", "launches") == "2 launches"
    assert [text.listing(items) for items in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_free_text_stays_text() -> None:
    assert text.plain("a & b\n*c* <d> [e] `f` \\") == r"a &amp; b \*c\* &lt;d> \[e\] \`f\` \\"


def test_underscores_are_escaped_only_where_markdown_reads_emphasis() -> None:
    assert text.plain("coupled_pe and _private_") == r"coupled_pe and \_private\_"


def test_code_survives_backticks() -> None:
    assert text.code("a/b|c") == "`a/b|c`"
    assert text.code("x `y` z") == "`` x `y` z ``"


def test_fence_is_longer_than_any_fence_inside() -> None:
    assert text.fence("name = 1") == "```"
    assert text.fence("a ```` b") == "`````"


def test_first_line_of_an_error() -> None:
    assert text.first_line("\n  RuntimeError: no \n more") == "RuntimeError: no"
    assert text.first_line('Traceback (most recent call last):\n  File "a"\nValueError: it') == "ValueError: it"
    assert text.first_line(None) == "no reason was recorded"
    assert text.first_line("x" * 300) == "x" * 199 + "…"


def test_a_dirty_revision_comes_with_its_sources() -> None:
    dirty = SourceIdentity(revision="a" * 40, dirty=True, source_hash="b" * 64)
    assert text.traceable_revision(dirty) == "aaaaaaaaa+ (sources bbbbbbbb)"
    assert text.traceable_revision(dirty.model_copy(update={"dirty": False})) == "aaaaaaaaa"
    assert text.traceable_revision(dirty.model_copy(update={"revision": None})) == "sources bbbbbbbb"
