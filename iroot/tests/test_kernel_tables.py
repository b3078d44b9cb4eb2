"""Tables of configurations: files to the last digit, which one is used, and what is said of the others."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iroot.errors import InvalidInputError
from iroot.tests.planted_tables import GPU, entry, gram, planted_table  # before the kernels, which it interprets

# isort: split
from iroot.kernels import table_file, tables
from iroot.kernels.multiply_add import BLOCKINGS, SEARCHED_BLOCKINGS, default_blocking
from iroot.kernels.symmetric import Terms, default_tiling, symmetric_product
from iroot.kernels.table_file import Shape, file_name, kernel_hash, read_kernel_table, write_kernel_table
from iroot.kernels.tiling import SEARCHED_TILINGS, TILINGS, Tiling

PLACE = torch.device("cpu")
TUNED = "128+64 k64 w8 s3"
NAME = "kernels_planted_gpu_1tb.json"
SIZES = torch.Size((1, 2048, 2048))


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`cache/iroot` and `shipped` below a folder, on a machine whose GPU is the planted one."""
    monkeypatch.delenv(tables.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tables, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(tables, "gpu_name", lambda device: GPU)
    for folder in ("cache/iroot", "shipped"):
        (tmp_path / folder).mkdir(parents=True)
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    """What a process keeps of its tables."""
    for kept in (tables._sources, default_tiling, default_blocking):
        kept.cache_clear()


def chosen(dtype: torch.dtype = torch.bfloat16, shape: torch.Size = SIZES) -> str:
    forget()
    return str(default_tiling(shape, "gram", dtype, PLACE))


def test_a_file_gives_the_table_back(tmp_path: Path) -> None:
    table = planted_table(entry(gram(2048), TUNED), entry(gram(512, depth=700, batches=3, dtype="float16"), TUNED))
    write_kernel_table(tmp_path / "t.json", table)
    assert read_kernel_table(tmp_path / "t.json") == table
    assert [path.name for path in tmp_path.iterdir()] == ["t.json"]
    assert json.loads((tmp_path / "t.json").read_text())["shapes"][1]["depth"] == 700
    assert file_name("NVIDIA H100 80GB HBM3") == "kernels_nvidia_h100_80gb_hbm3.json"


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("schema",), "iroot-kernels/9", "schema must be 'iroot-kernels/1'"),
        (("gpu",), "", "gpu must be a non-empty string"),
        (("provenance",), None, "provenance must be a table of values"),
        (("provenance", "driver"), 1, "provenance.driver must be a non-empty string, got 1"),
        (("shapes",), {}, "shapes must be a list of 1 to"),
        (("shapes", 0, "kind"), "gramm", "shapes.kind must be one of gram, quadratic, apply, got 'gramm'"),
        (("shapes", 0, "rows"), 0, "shapes.rows must be an integer in"),
        (("shapes", 0, "chosen"), "64+0 k64 w4 s3", "shapes.chosen must be one of the candidates with a time"),
        (("shapes", 0, "candidates", 1, "rounds_us"), [1.0, -1.0], "candidates.rounds_us must be times > 0"),
        (("shapes", 0, "candidates", 1, "fault"), "wrong", "shapes.chosen must be one of the candidates with a time"),
    ],
)
def test_a_broken_file_is_named_with_the_key(
    tmp_path: Path, path: tuple[str | int, ...], value: object, text: str
) -> None:
    file = tmp_path / "t.json"
    write_kernel_table(file, planted_table(entry(gram(2048), TUNED)))
    values = json.loads(file.read_text())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(values))
    with pytest.raises(InvalidInputError, match=r"t\.json") as caught:
        read_kernel_table(file)
    assert text in str(caught.value)


def test_without_a_table_the_model_decides(places: Path) -> None:
    assert tables.sources(PLACE) == ()
    assert tables.used(PLACE) is None
    assert chosen() == str(TILINGS[1])


def test_a_table_in_the_cache_comes_before_the_shipped_one_and_shapes_match_exactly(places: Path) -> None:
    write_kernel_table(places / "shipped" / NAME, planted_table(entry(gram(2048), TUNED), entry(gram(512), TUNED)))
    assert (chosen(), chosen(shape=torch.Size((1, 512, 512)))) == (TUNED, TUNED)
    write_kernel_table(places / "cache/iroot" / NAME, planted_table(entry(gram(2048), "64+16 k64 w4 s4")))
    assert (chosen(), chosen(shape=torch.Size((1, 512, 512)))) == ("64+16 k64 w4 s4", TUNED)
    for other in (torch.Size((1, 2048, 2032)), torch.Size((2, 2048, 2048))):
        assert chosen(shape=other) != "64+16 k64 w4 s4"
    assert chosen(torch.float16) == str(TILINGS[1])
    cached, shipped = tables.sources(PLACE)
    assert tables.used(PLACE) == f"{NAME} sha256:{cached.digest}, {NAME} sha256:{shipped.digest}"
    assert len(cached.digest) == 12
    assert cached.digest != shipped.digest


def test_the_variable_names_a_table_or_none(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kernel_table(places / "cache/iroot" / NAME, planted_table(entry(gram(2048), TUNED)))
    monkeypatch.setenv(tables.VARIABLE, "none")
    assert chosen() == str(TILINGS[1])
    assert tables.sources(PLACE) == ()
    write_kernel_table(places / "mine.json", planted_table(entry(gram(2048), "64+16 k64 w4 s4")))
    monkeypatch.setenv(tables.VARIABLE, str(places / "mine.json"))
    assert chosen() == "64+16 k64 w4 s4"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"gpu": "OTHER GPU"}, "measured on OTHER GPU, this GPU is PLANTED GPU 1TB"),
        ({"triton": "2.0"}, "measured with Triton 2.0, this is"),
        ({"kernel_hash": "0" * 64}, "kernels have changed since (code 000000000000, now "),
    ],
)
@pytest.mark.parametrize("origin", ["cache", "environment", "shipped"])
def test_a_stale_table_is_left_out_and_says_why(
    places: Path, monkeypatch: pytest.MonkeyPatch, origin: str, change: dict[str, str], reason: str
) -> None:
    table = planted_table(entry(gram(2048), TUNED))
    table = replace(table, identity=replace(table.identity, **change))
    path = places / {"cache": f"cache/iroot/{NAME}", "environment": "mine.json", "shipped": f"shipped/{NAME}"}[origin]
    write_kernel_table(path, table)
    if origin == "environment":
        monkeypatch.setenv(tables.VARIABLE, str(path))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            assert str(default_tiling(SIZES, "gram", torch.bfloat16, PLACE)) == str(TILINGS[1])
            default_tiling(torch.Size((1, 512, 512)), "gram", torch.bfloat16, PLACE)
    said = [str(warning.message) for warning in caught]
    # A shipped one is nothing that its user can mend.
    assert len(said) == (origin != "shipped")
    assert all(reason in text and str(path) in text and "run `iroot tune kernels` anew" in text for text in said)
    (source,) = tables.sources(PLACE)
    assert reason in source.reason
    assert tables.used(PLACE) is None


def test_a_broken_table_is_an_error_only_where_it_was_asked_for(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = places / "cache/iroot" / NAME
    path.write_text('{"schema": "iroot-kernels/1", "gpu": ')
    with pytest.warns(RuntimeWarning, match=f"{NAME}: a table must be JSON") as caught:
        assert chosen() == str(TILINGS[1])
    assert len(caught) == 1
    monkeypatch.setenv(tables.VARIABLE, str(path))
    for _ in range(2):
        with pytest.raises(InvalidInputError, match=f"IROOT_KERNEL_TABLE must name a table.*or 'none'.*{NAME}"):
            chosen()
    monkeypatch.setenv(tables.VARIABLE, str(places / "absent.json"))
    with pytest.raises(InvalidInputError, match=r"no table file .*absent\.json"):
        chosen()


def test_a_configuration_that_no_kernel_lists_is_never_launched(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = places / "cache/iroot" / NAME
    write_kernel_table(path, planted_table(entry(gram(2048), "8192+0 k64 w4 s3")))
    with pytest.warns(RuntimeWarning, match="depth 2048, bfloat16: no configuration '8192"):
        assert chosen() == str(TILINGS[1])
    monkeypatch.setenv(tables.VARIABLE, str(path))
    with pytest.raises(InvalidInputError, match="no configuration"):
        chosen()


def test_blockings_are_looked_up_by_rows_columns_and_depth(places: Path) -> None:
    shape = Shape(kind="apply", rows=2048, columns=8192, depth=2048, batches=1, dtype="torch.bfloat16")
    write_kernel_table(places / "cache/iroot" / NAME, planted_table(entry(shape, str(BLOCKINGS[2]), str(BLOCKINGS[0]))))
    sizes = torch.Size((1, 2048, 8192))
    assert default_blocking(sizes, 2048, torch.bfloat16, PLACE) == BLOCKINGS[2]
    assert default_blocking(sizes, 1024, torch.bfloat16, PLACE) == BLOCKINGS[0]


def test_a_product_takes_what_its_table_names(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str]] = []

    def small(shape: torch.Size, kind: table_file.Kind | None, dtype: torch.dtype, device: torch.device) -> Tiling:
        asked.append((kind, str(dtype)))
        return Tiling(block=16, tail=0, block_k=16, warps=4, stages=2)

    monkeypatch.setattr("iroot.kernels.symmetric.default_tiling", small)
    A = torch.ones(16, 16, dtype=torch.float16)
    symmetric_product(A, A)
    symmetric_product(A, A, A, terms=Terms(beta=1.0))
    symmetric_product(A, A, A.float(), terms=Terms(beta=1.0))
    symmetric_product(A, A, output=torch.float32)
    symmetric_product(A.float(), A.float())  # no search times these
    assert asked == [("gram", "torch.float16"), ("quadratic", "torch.float16"), (None, "torch.float16"),
                     (None, "torch.float16"), (None, "torch.float32")]  # fmt: skip


def test_configurations_have_names_of_their_own() -> None:
    for choices in (SEARCHED_TILINGS, SEARCHED_BLOCKINGS):
        assert len({str(choice) for choice in choices}) == len(choices)


def test_the_hash_of_the_kernels_is_of_their_code_alone() -> None:
    def code(text: str) -> object:
        return table_file._code(ast.parse(text))

    one = code(
        'def f(a):\n    """Doc."""\n    # why\n    if a:\n        raise ValueError(f"{a}")\n    return a + 1.0\n'
    )
    assert one == code('def f(a):\n    if a:\n        raise KeyError("other")\n    return a + 1.0')
    for other in ("def f(a):\n    if a:\n        raise E\n    return a + 2.0", "def g(a):\n    return a + 1.0"):
        assert one != code(other)
    assert code("x = None") != code("x = 0") != code("x = '0'")
    assert len(kernel_hash()) == 64


def test_shipped_tables_hold_for_the_present_kernels() -> None:
    for path in tables.SHIPPED_FOLDER.glob("kernels_*.json"):
        table = read_kernel_table(path)
        assert path.name == file_name(table.identity.gpu)
        assert table.identity.kernel_hash == kernel_hash(), (
            f"{path.name} is of other kernels: remove it, or measure anew on that GPU: {table.provenance.command}"
        )


def imported(module: str) -> set[str]:
    """The modules of `iroot.kernels` that one of them names, at its head or where it needs them."""
    tree = ast.parse((Path(table_file.__file__).parent / f"{module}.py").read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {name.removeprefix("iroot.kernels.") for name in names if name.startswith("iroot.kernels.")}


def test_the_hash_is_of_every_module_that_a_timed_kernel_is_made_of() -> None:
    """Others launch, choose, or belong to operands that no table knows."""
    others = {"families", "hopper", "rehearsal", "table_file", "tables", "tf32", "words"}
    found, new = set[str](), {"symmetric", "multiply_add"}
    while new:
        found |= new
        new = {name for module in new for name in imported(module)} - found - others
    assert found == {name.removesuffix(".py") for name in table_file._SOURCES}
