"""Arrays on one line, and the document's meaning unchanged."""

from __future__ import annotations

import tomllib

import pytest

from harness.manifest import load_manifest, shipped_manifests
from harness.report.toml_text import WIDTH, compact


def test_arrays_that_fit_take_one_line_and_long_ones_stay() -> None:
    long = ",\n".join(f'    "{"x" * 40}"' for _ in range(4))
    nested = "[\n    [\n        256,\n        1024,\n    ],\n]"
    text = f"p = [\n    1,\n    2,\n]\nshape = {nested}\nlong = [\n{long},\n]\nend = 1\n"
    result = compact(text)
    assert result.startswith("p = [1, 2]\nshape = [[256, 1024]]\nlong = [\n")
    assert result.endswith(",\n]\nend = 1\n")


@pytest.mark.parametrize("name", shipped_manifests())
def test_a_manifest_means_the_same_in_fewer_lines(name: str) -> None:
    text = load_manifest(name).to_toml()
    result = compact(text)
    assert tomllib.loads(result) == tomllib.loads(text)
    assert len(result.splitlines()) < len(text.splitlines())
    assert all(len(line) <= WIDTH or not line.endswith("]") for line in result.splitlines())


@pytest.mark.parametrize("text", ["no = toml = at all\n", 'a = [\n    "kept ]",\n    ", ]",\n]\n', ""])
def test_what_would_change_its_meaning_comes_back_as_it_is(text: str) -> None:
    assert compact(text) == text
