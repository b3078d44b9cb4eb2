"""`SHA256SUMS` files, in the format of `sha256sum`: a folder whose files can be checked by the standard tool too."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  ([\w.+-]+)", re.ASCII)


def sums_of(files: Mapping[str, bytes]) -> bytes:
    """The content of a SHA256SUMS over the given files, sorted by name."""
    lines = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    return "".join(lines).encode()


def with_sums(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The files and their SHA256SUMS."""
    return {**files, SUMS: sums_of(files)}


def check_sums(folder: Path) -> tuple[str, ...]:
    """What is wrong with a folder's files, one line each; empty where every listed sum holds and no file is extra."""
    if not folder.is_dir():
        return (f"{folder} is not a folder",)
    sums = folder / SUMS
    if not sums.is_file():
        return (f"{SUMS} is missing",)
    problems: list[str] = []
    listed = {SUMS}
    for number, line in enumerate(sums.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if not match:
            problems.append(f"{SUMS}:{number}: a line is 64 hex digits, two spaces and a file name, got {line!r}")
            continue
        listed.add(match[2])
        problems += _check_file(folder / match[2], match[1])
    extra = sorted(entry.name for entry in folder.iterdir() if entry.name not in listed)
    return (*problems, *(f"{name} is not listed in {SUMS}" for name in extra))


def _check_file(file: Path, expected: str) -> list[str]:
    if not file.is_file():
        return [f"{file.name} is missing"]
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    return [] if found == expected else [f"{file.name} is damaged: its SHA-256 is {found}, {SUMS} says {expected}"]
