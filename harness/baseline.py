"""Official baselines: promote runs to the reference of a machine class and a manifest, load and verify it.

A baseline is written by `promote` alone, and only from runs that can be reproduced: a known revision, a clean tree,
every case measured as expected. Several runs of the same thing merge; their spread tells later comparisons how far two
runs of unchanged code lie apart.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from harness.baseline_checks import (
    SHOWN,
    inconsistencies,
    refusals,
    refused_cases,
    unlike_base,
    unofficial,
    without_cases,
)
from harness.baseline_diff import cell_changes, metadata_changes
from harness.baseline_files import METADATA, BaselineContent, from_folder, read_metadata, to_files
from harness.baseline_merge import amended, content_of, summary_of
from harness.checksums import check_sums
from harness.errors import BaselineError, UsageError
from harness.filters import CaseFilter
from harness.records import Outcome, RunRecord, RunSummary, SourceIdentity

_FOLDER_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Promotion:
    """A promotion that passed every check and is not written yet.

    Attributes:
        folder: where it goes.
        files: name -> bytes, checksums included.
        changes: what it changes, one line each; empty if the folder holds the same bytes already.
        notes: what the maintainer should know, one line each.
    """

    folder: Path
    files: Mapping[str, bytes]
    changes: tuple[str, ...]
    notes: tuple[str, ...]

    def write(self) -> Path:
        """Replace the folder as a whole, so that no reader ever sees a mixture; returns it."""
        fresh = self.folder.with_name(f".{self.folder.name}.new-{os.getpid()}")
        stale = self.folder.with_name(f".{self.folder.name}.old-{os.getpid()}")
        fresh.mkdir(parents=True)
        try:
            for name, content in self.files.items():
                (fresh / name).write_bytes(content)
            if self.folder.exists():
                self.folder.rename(stale)
            fresh.rename(self.folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(stale, ignore_errors=True)
        return self.folder


def promote(
    runs: Sequence[RunSummary],
    root: Path,
    *,
    reason: str,
    cases: CaseFilter | None = None,
    leave_refused: bool = False,
    checkout: SourceIdentity | None = None,
    today: date | None = None,
) -> Path:
    """Make runs the official baseline of their machine class and manifest; arguments and errors as `prepare`."""
    promotion = prepare(
        runs, root, reason=reason, cases=cases, leave_refused=leave_refused, checkout=checkout, today=today
    )
    return promotion.write()


def prepare(
    runs: Sequence[RunSummary],
    root: Path,
    *,
    reason: str,
    cases: CaseFilter | None = None,
    leave_refused: bool = False,
    checkout: SourceIdentity | None = None,
    today: date | None = None,
) -> Promotion:
    """Check runs for promotion and build the files; writes nothing.

    Args:
        runs: one or more runs of one manifest, on one kind of machine, of one source.
        root: the folder of baselines.
        reason: why this is the reference from now on; goes into the metadata.
        cases: replace or add these cases alone and leave every other one as it is; None: the whole manifest.
        leave_refused: leave cases that would be refused as they are, or out, and promote the others.
        checkout: the source that an imported run is promoted at; required for imported runs.
        today: the day of promotion, by default today in UTC.

    Raises:
        BaselineError: everything that speaks against the promotion, one line each.
        UsageError: `cases` fits no case of a run, or names what no run has.
    """
    if cases is not None:
        runs = _narrowed(runs, cases)
    left = refused_cases(runs) if leave_refused and runs else {}
    runs = [without_cases(each, frozenset(left)) for each in runs]
    if left and not runs[0].run.cases:
        raise _refused([f"every case is: {why}" for why in list(left.values())[:SHOWN]])
    found = refusals(runs, reason=reason, checkout=checkout)
    if found:
        raise _refused(found)
    ordered = sorted(runs, key=lambda each: each.run.run_id)
    merged = ordered[-1].run
    folder = baseline_folder(root, merged.machine.machine_class, merged.manifest)
    content = content_of(
        ordered,
        reason=reason,
        revision=_revision(ordered, checkout),
        today=today or datetime.now(UTC).date(),
    )
    existing = from_folder(folder) if folder.exists() else None
    notes = (*_notes(ordered), *(f"left as it was, or out: {why}" for why in left.values()))
    if existing is not None and (left or cases is not None):
        found = unlike_base(ordered, existing)
        if found:
            raise _refused(found)
        notes += _software_notes(existing.metadata.runs[: len(existing.metadata.base_runs)], merged)
        content = _amended(existing, content, filter=_asked(cases, left))
    content = _with_left_out(content, left)
    _require_all(existing, content, folder)
    return Promotion(folder=folder, files=to_files(content), changes=_changes(existing, content), notes=notes)


def _require_all(existing: BaselineContent | None, content: BaselineContent, folder: Path) -> None:
    dropped = existing.case_ids - content.case_ids if existing else frozenset()
    if dropped:
        raise _refused(
            [
                f"the runs lack {len(dropped)} of the existing baseline's cases, among them {min(dropped)}; promote "
                f"runs of the whole manifest, or some cases alone with --cases FILTER, or remove {folder} first if the "
                "cases were given up on purpose"
            ]
        )


def _asked(cases: CaseFilter | None, left: Mapping[str, str]) -> str:
    """Which cases a promotion was to replace, in words."""
    return ", ".join([*([cases.text] if cases else []), *([f"without {len(left)} refused"] if left else [])])


def require_official(runs: Sequence[RunSummary]) -> None:
    """Raise BaselineError where the runs are too few, or too short, to be an official reference."""
    found = unofficial(runs)
    if found:
        raise _refused([*found, "measure more, or promote with --provisional"])


def _narrowed(runs: Sequence[RunSummary], cases: CaseFilter) -> list[RunSummary]:
    """The baseline's own cases do not count as named: a cell that no run has would stay as it is unsaid."""
    misnamed = cases.misnamed([each.case for summary in runs for each in summary.run.cases])
    kept = []
    for summary in runs:
        out = frozenset(each.case.case_id for each in summary.run.cases if not cases(each.case))
        if len(out) == len(summary.run.cases):
            why = f": {misnamed}" if misnamed else ""
            raise UsageError(f"--cases '{cases.text}' fits no case of {summary.run.run_id}{why}")
        kept.append(without_cases(summary, out))
    if misnamed:
        raise UsageError(f"--cases '{cases.text}': {misnamed}")
    return kept


def _amended(existing: BaselineContent, cells: BaselineContent, *, filter: str) -> BaselineContent:
    """The existing content itself where the cells are in it already."""
    kept = existing.cells
    if all(kept.get(case_id) == cell for case_id, cell in cells.cells.items()):
        return existing
    return amended(existing, cells, filter=filter)


def _with_left_out(content: BaselineContent, left: Mapping[str, str]) -> BaselineContent:
    """Says which cases have no cell, those of earlier promotions included."""
    known = content.case_ids
    named = {**content.metadata.left_out, **left}
    out = {case_id: why for case_id, why in named.items() if case_id not in known}
    if out == content.metadata.left_out:
        return content
    return dataclasses.replace(content, metadata=content.metadata.model_copy(update={"left_out": out}))


def load_baseline(root: Path, machine_class: str, manifest: str) -> RunSummary | None:
    """The official baseline as one summary, launches of merged runs numbered on; None if there is none.

    Raises:
        BaselineError: a checksum is wrong, or the format is newer or broken.
    """
    if not (_FOLDER_NAME.fullmatch(machine_class) and _FOLDER_NAME.fullmatch(manifest)):
        return None  # no baseline can have been promoted under such a name
    folder = baseline_folder(root, machine_class, manifest)
    return summary_of(from_folder(folder)) if folder.exists() else None


def list_baselines(root: Path) -> tuple[Path, ...]:
    """The folders of all baselines, sorted; a damaged one is listed too."""
    return tuple(sorted(folder for folder in root.glob("[!.]*/[!.]*") if folder.is_dir()))


def find_baseline(root: Path, name: str) -> Path:
    """The folder of `MACHINE/MANIFEST`, or of `MANIFEST` where one machine class has it.

    Raises:
        UsageError: there is none, or there are several; the message names the nearest, or all of them.
    """
    known = {f"{folder.parent.name}/{folder.name}": folder for folder in list_baselines(root)}
    fitting = [full for full in known if name in (full, known[full].name)]
    if len(fitting) == 1:
        return known[fitting[0]]
    if fitting:
        raise UsageError(f"several baselines are called {name!r}: {', '.join(fitting)}")
    if not known:
        raise UsageError(f"no baseline {name!r}: there is none in {root}")
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
    raise UsageError(f"no baseline {name!r} in {root}; the nearest is '{nearest}'")


def baseline_folder(root: Path, machine_class: str, manifest: str) -> Path:
    """`root/<machine class>/<manifest>`. Raises BaselineError on a name that cannot be a folder's."""
    for kind, name in (("machine class", machine_class), ("manifest", manifest)):
        if not _FOLDER_NAME.fullmatch(name):
            raise BaselineError(f"a {kind} names a folder here: letters, digits, '_', '.', '+', '-' only, got {name!r}")
    return root / machine_class / manifest


def verify_baseline(path: Path) -> tuple[str, ...]:
    """What is wrong with a baseline folder, one line each; empty for a good one."""
    problems = check_sums(path)
    try:
        metadata = read_metadata(path)
    except BaselineError as error:
        return (*problems, str(error))
    if (metadata.machine_class, metadata.manifest) != (path.parent.name, path.name):
        problems += (f"{METADATA} is of {metadata.machine_class}/{metadata.manifest}, the folder of another baseline",)
    if problems:
        return problems
    try:
        content = from_folder(path)
    except BaselineError as error:
        return (str(error),)
    return inconsistencies(content)


def _refused(reasons: Sequence[str]) -> BaselineError:
    return BaselineError("promotion refused:\n" + "\n".join(f"  - {reason}" for reason in reasons))


def _revision(runs: Sequence[RunSummary], checkout: SourceIdentity | None) -> str:
    """The commit of the runs; where they were measured without git or on a dirty copy, that of the checkout."""
    sources = [each.run.source for each in runs]
    known = [source.revision for source in sources if source.revision is not None and not source.dirty]
    if known:
        return known[-1]
    assert checkout is not None, "refusals() lets no such run pass"
    assert checkout.revision is not None, "refusals() lets no such run pass"
    return checkout.revision


def _notes(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    newest = runs[-1].run
    notes = unofficial(runs)
    if newest.filter is not None:
        notes.append(f"the runs are narrowed by the filter {newest.filter!r}: the baseline covers part of the manifest")
    for each in runs[:-1]:
        notes += _software_notes([each.run], newest)
        if each.run.machine.uuid != newest.machine.uuid:
            notes.append(f"{each.run.run_id} and {newest.run_id} were measured on different units")
    healed = [
        case_id
        for case_id, case in runs[-1].cases.items()
        if case.planned.expect != "ok" and case.outcome is Outcome.OK
    ]
    notes += [f"{case_id} is ok though the manifest expects otherwise" for case_id in healed]
    return tuple(notes)


def _software_notes(runs: Sequence[RunRecord], newest: RunRecord) -> tuple[str, ...]:
    differing = {run.run_id: run.software.differences(newest.software) for run in runs}
    return tuple(
        f"software of {run_id} and {newest.run_id} differs: {'; '.join(found)}"
        for run_id, found in differing.items()
        if found
    )


def _changes(existing: BaselineContent | None, content: BaselineContent) -> tuple[str, ...]:
    """What a promotion changes, for people."""
    if existing is None:
        return (f"new baseline of {len(content.case_ids)} cases at {content.metadata.revision[:12]}",)
    if to_files(existing) == to_files(content):
        return ()
    return (
        *metadata_changes(existing.metadata, content.metadata),
        *(change.text for change in cell_changes(existing, content) if change.notable),
    )
