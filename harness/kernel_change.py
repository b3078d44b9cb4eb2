"""The Triton kernels of two sides -> what differs. A hint at the cause of a changed time, never a verdict.

Equal code in equal configurations, launched as often, cannot be what made a case slower: the cause lies elsewhere, in
clocks, libraries or host code. Kernels of libraries (cuBLAS, cuSOLVER) are not seen, and say nothing either way.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import CaseSummary, KernelChange, LaunchedKernel, OptionValue


def kernel_change(candidate: CaseSummary, reference: CaseSummary) -> KernelChange | None:
    """Compare the kernels of one case.

    Returns:
        None where a side's kernels are not known, neither launches one, or their hashes are of different things.
    """
    mine, theirs = candidate.kernels, reference.kernels
    if mine is None or theirs is None or not (mine or theirs):
        return None
    if len({kernel.hashed for kernel in (*mine, *theirs)}) > 1:
        return None
    names = dict.fromkeys(kernel.name for kernel in (*theirs, *mine))
    changes = [change for name in names if (change := _change(name, _of(name, mine), _of(name, theirs)))]
    return KernelChange(same=not changes, changes=tuple(changes))


def short_name(name: str) -> str:
    """`symmetric` for `iroot.kernels.symmetric._symmetric_kernel`."""
    return name.rpartition(".")[2].strip("_").removesuffix("_kernel").replace("_", " ")


def _of(name: str, kernels: Sequence[LaunchedKernel]) -> list[LaunchedKernel]:
    return [kernel for kernel in kernels if kernel.name == name]


def _change(name: str, mine: list[LaunchedKernel], theirs: list[LaunchedKernel]) -> str | None:
    """What became of one kernel, which may be launched in several configurations; None if nothing did."""
    label = short_name(name)
    if not theirs or not mine:
        return f"{label}: {'no longer launched' if theirs else 'launched, and was not before'}"
    new = [kernel for kernel in mine if kernel not in theirs]
    old = [kernel for kernel in theirs if kernel not in mine]
    if len(new) == len(old):
        texts = [_difference(before, after) for before, after in zip(old, new, strict=True)]
    else:
        texts = [f"{_listed(old or theirs)} → {_listed(new or mine)}"]
    return f"{label}: {'; '.join(dict.fromkeys(texts))}" if texts else None


def _difference(before: LaunchedKernel, after: LaunchedKernel) -> str:
    old, new = dict(before.configuration), dict(after.configuration)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    parts = [f"{name} {_value(old.get(name))} → {_value(new.get(name))}" for name in names]
    if not parts and before.code_hash != after.code_hash:
        parts = ["other code, same configuration"]
    if before.launches != after.launches:
        parts.append(f"launched {after.launches} times a call instead of {before.launches}")
    return ", ".join(parts)


def _listed(kernels: Sequence[LaunchedKernel]) -> str:
    """The configurations, as far as they differ among themselves."""
    if len(kernels) == 1:
        return "1 configuration"
    every = [dict(kernel.configuration) for kernel in kernels]
    names = [name for name in every[0] if len({str(each.get(name)) for each in every}) > 1]
    shown = [" ".join(f"{name} {_value(each.get(name))}" for name in names) for each in every]
    return f"{len(kernels)} configurations ({', '.join(dict.fromkeys(shown))})"


def _value(value: OptionValue | None) -> str:
    return "–" if value is None else str(value)
