"""What a row says beside its verdict on time and accuracy: peak memory, first call, and what became of its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records import CaseVerdict, Verdict
from harness.report.format import count, listing
from harness.resource_verdict import Resource, ResourceName, resources_of

SAME_KERNELS = "same Triton kernels: the cause lies elsewhere (clocks, libraries, host code)"

_MOVED = (Verdict.REGRESSED, Verdict.IMPROVED, Verdict.TRADE)
"""Verdicts that ask for a cause of a changed time."""

_ACCURACY = (Verdict.LESS_ACCURATE, Verdict.MORE_ACCURATE)

_GROWN: dict[ResourceName, str] = {"peak_memory": "Peak memory grew", "first_call": "The first call got slower"}
_SHRUNK: dict[ResourceName, str] = {"peak_memory": "Peak memory shrank", "first_call": "The first call got faster"}


def kernel_hint(row: CaseVerdict) -> str | None:
    """What the kernels say on the cause of a changed time; changed ones are named beside changed accuracy too."""
    if row.kernels is None:
        return None
    if row.kernels.same:
        return SAME_KERNELS if row.verdict in _MOVED else None
    return f"kernels changed: {'; '.join(row.kernels.changes)}" if row.verdict in (*_MOVED, *_ACCURACY) else None


def changed_resources(row: CaseVerdict) -> Iterator[Resource]:
    """Resources that moved, and undecided ones that count."""
    for each in resources_of(row):
        if each.verdict is not Verdict.UNCHANGED and (each.fails or each.verdict is not Verdict.INCONCLUSIVE):
            yield each


def hints(row: CaseVerdict) -> tuple[str, ...]:
    """Everything there is to say beside the verdict, one text each."""
    texts = [f"{each.text}: {each.verdict}{'' if each.fails else ' (advisory)'}" for each in changed_resources(row)]
    hint = kernel_hint(row)
    return (*texts, *((hint,) if hint else ()))


def resource_line(rows: Sequence[CaseVerdict]) -> str:
    """`Peak memory grew in 2 cases (advisory).`, a sentence for each resource and direction; empty if none moved."""
    moved = [each for row in rows for each in changed_resources(row)]
    sentences = []
    for verdict, words in ((Verdict.REGRESSED, _GROWN), (Verdict.IMPROVED, _SHRUNK)):
        for name, text in words.items():
            found = [each for each in moved if each.name == name and each.verdict is verdict]
            if found:
                fails = verdict is Verdict.IMPROVED or any(each.fails for each in found)
                sentences.append(f"{text} in {count(len(found), 'case')}{'' if fails else ' (advisory)'}.")
    undecided = [each for each in moved if each.verdict is Verdict.INCONCLUSIVE]
    if undecided:
        names = listing(sorted({each.name.replace("_", " ") for each in undecided}))
        sentences.append(f"Undecided: {names} in {count(len(undecided), 'case')}.")
    return " ".join(sentences)
