"""Which Triton kernels a call launches, with a hash of their code and their configuration. Hints at causes, no timing.

Triton's launch hooks know a kernel's name and handle, but neither its code nor its tile sizes, and its interpreter
calls none. `run`, through which every launch `kernel[grid](...)` goes, autotuned ones included, is given the
configuration and returns the compiled kernel (Triton 3.6 and 3.9). So the `run` of Triton's two kinds of kernels is
wrapped while one untimed call is made, and put back after it; nothing else of Triton's state is touched.

What is hashed are the sections of the binary that are loaded onto the device: instructions and constants. A cubin also
holds the path and the line numbers of its source, and would differ between two checkouts of the same code.
"""

from __future__ import annotations

import hashlib
import inspect
import struct
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from harness.execution import Call
from harness.records import LaunchedKernel, OptionValue
from iroot.registry import Operands

RESOLVED_OPTIONS = ("num_warps", "num_stages")
"""Launch options that the compiler settles where a launch does not name them."""

_LOADED = 0x2
"""SHF_ALLOC: the section takes memory when the program runs."""
_PROGRAM_DATA = 1
"""SHT_PROGBITS."""


class KernelTrace:
    """The launches of the last traced call.

    A kernel is seen if Triton has been imported before the call and launches it from Python: not inside the code that
    `torch.compile` generates.
    """

    def __init__(self) -> None:
        self._launches: list[_Launch] | None = None

    def traced(self, call: Call) -> Call:
        """`call`, noting its launches; the Python in between makes it unfit to be timed."""

        def noting(operands: Operands) -> Any:
            self._launches = []
            with _launches_told_to(self._launches.append):
                return call(operands)

        return noting

    @property
    def kernels(self) -> tuple[LaunchedKernel, ...] | None:
        """What the last traced call launched, in order of first launch; None before any."""
        if self._launches is None:
            return None
        counts: dict[LaunchedKernel, int] = {}
        for launch in self._launches:
            kernel = launch.record()
            counts[kernel] = counts.get(kernel, 0) + 1
        return tuple(kernel.model_copy(update={"launches": count}) for kernel, count in counts.items())


@dataclass(frozen=True, kw_only=True)
class _Launch:
    """One launch; keeps no argument but the compile-time ones, so that no tensor lives longer for it."""

    function: Callable[..., Any]
    configuration: tuple[tuple[str, OptionValue], ...]
    compiled: Any
    """Triton's compiled kernel, None where it interprets."""

    def record(self) -> LaunchedKernel:
        return LaunchedKernel(
            name=f"{self.function.__module__}.{self.function.__qualname__}",
            code_hash=source_hash(self.function) if self.compiled is None else _compiled_hash(self.compiled),
            hashed="source" if self.compiled is None else "binary",
            configuration=self.configuration,
            launches=1,
        )


@contextmanager
def _launches_told_to(tell: Callable[[_Launch], None]) -> Iterator[None]:
    with ExitStack() as restored:
        for kind in _kernel_kinds():
            restored.callback(setattr, kind, "run", kind.run)
            kind.run = _telling(kind.run, tell)
        yield


def _kernel_kinds() -> tuple[Any, ...]:
    """Triton's classes of compiled and of interpreted kernels, as far as they are loaded."""
    places = (("triton.runtime.jit", "JITFunction"), ("triton.runtime.interpreter", "InterpretedFunction"))
    return tuple(getattr(sys.modules[module], name) for module, name in places if module in sys.modules)


def _telling(run: Callable[..., Any], tell: Callable[[_Launch], None]) -> Callable[..., Any]:
    # The signature is Triton's: what a kernel takes is known to the kernel alone.
    def run_and_tell(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        compiled = run(kernel, *args, grid=grid, warmup=warmup, **kwargs)
        if not warmup:
            configuration = _configuration(kernel.fn, args, kwargs, compiled)
            tell(_Launch(function=kernel.fn, configuration=configuration, compiled=compiled))
        return compiled

    return run_and_tell


@cache
def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Kept, since every launch asks: to inspect 47 parameters takes 0.14 ms (a CPU core, 2026-11)."""
    return inspect.signature(function).parameters


def _configuration(
    function: Callable[..., Any], args: Sequence[object], kwargs: Mapping[str, object], compiled: Any
) -> tuple[tuple[str, OptionValue], ...]:
    """Compile-time arguments and launch options, by name."""
    parameters = _parameters(function)
    given = {**dict(zip(parameters, args, strict=False)), **kwargs}
    chosen = {name: value for name, value in kwargs.items() if name not in parameters}
    for name, parameter in parameters.items():
        if _is_constexpr(parameter.annotation):
            chosen[name] = given.get(name, parameter.default)
    if compiled is not None:
        chosen |= {name: getattr(compiled.metadata, name) for name in RESOLVED_OPTIONS}
    return tuple(sorted((name, _plain(value)) for name, value in chosen.items()))


def _is_constexpr(annotation: object) -> bool:
    """Annotations are objects, or strings where their module postpones them."""
    name = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
    return str(name).rpartition(".")[2] == "constexpr"


def _plain(value: object) -> OptionValue:
    value = getattr(value, "value", value)  # of a constexpr
    return value if isinstance(value, bool | int | float | str) else str(value)


def source_hash(function: Callable[..., Any]) -> str:
    """sha256 over the source of a kernel and of the device functions it calls, by name, wherever they are defined."""
    found: dict[str, str] = {}
    waiting = [function]
    while waiting:
        each = waiting.pop()
        name = f"{each.__module__}.{each.__qualname__}"
        if name in found:
            continue
        found[name] = inspect.getsource(each)
        named = (each.__globals__.get(used) for used in each.__code__.co_names)
        waiting += [other.fn for other in named if isinstance(other, _kernel_kinds())]
    return hashlib.sha256("\n".join(found[name] for name in sorted(found)).encode()).hexdigest()


_compiled_hashes: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _compiled_hash(compiled: Any) -> str:
    """`binary_hash` of a kernel, worked out once: every case of a sweep launches the same few."""
    if compiled not in _compiled_hashes:
        _compiled_hashes[compiled] = binary_hash(compiled.kernel)
    return _compiled_hashes[compiled]


def binary_hash(binary: bytes) -> str:
    """sha256 over the name and the bytes of every loaded section of a 64-bit little-endian ELF file, such as a cubin.

    A binary in another format is hashed whole.
    """
    digest = hashlib.sha256()
    if not binary.startswith(b"\x7fELF\x02\x01"):
        digest.update(binary)
        return digest.hexdigest()
    for section in _sections(binary):
        if section.kind == _PROGRAM_DATA and section.flags & _LOADED:
            digest.update(section.name + b"\0" + struct.pack("<Q", len(section.content)) + section.content)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Section:
    name: bytes
    kind: int
    flags: int
    content: bytes


def _sections(binary: bytes) -> Iterator[_Section]:
    """The sections of an ELF-64 file (System V ABI, chapter 4)."""
    (table,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", binary, 0x3A)
    # sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size
    headers = [struct.unpack_from("<IIQQQQ", binary, table + index * size) for index in range(count)]
    names = headers[names_index][4]
    for name, kind, flags, _, offset, length in headers:
        end = binary.index(b"\0", names + name)
        yield _Section(
            name=binary[names + name : end], kind=kind, flags=flags, content=binary[offset : offset + length]
        )
