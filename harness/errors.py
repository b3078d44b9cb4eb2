"""The harness's exceptions and the exit codes of the command line."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """0 fine, 1 regression or failed check, 2 wrong use, 3 could not decide, 4 the measurement itself failed."""

    OK = 0
    FAILED_CHECK = 1
    USAGE = 2
    UNDECIDED = 3
    MEASUREMENT_FAILED = 4


class HarnessError(Exception):
    """Base of every error the harness raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = ExitCode.MEASUREMENT_FAILED


class UsageError(HarnessError):
    """Wrong use: the message names the file or flag, the key, the value received and the nearest valid name."""

    exit_code = ExitCode.USAGE


class StoreError(UsageError):
    """The store cannot be read or written, is newer than this program, or holds no such run."""


class BaselineError(UsageError):
    """A baseline is damaged, or a promotion was refused; the message says why."""

    exit_code = ExitCode.FAILED_CHECK


class UnlikeMachinesError(HarnessError):
    """Two runs come from unlike hardware; the message lists the differing fields."""

    exit_code = ExitCode.UNDECIDED


class MeasurementError(HarnessError):
    """The measurement could not be carried out."""
