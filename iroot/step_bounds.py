"""What fused polar steps divide their input by, as a record that methods and kernels share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class StepBound:
    """An upper bound on the largest singular value.

    Attributes:
        norm: `frobenius`: margin ||G||_F + epsilon; or `gram`: (||G||_F + epsilon) margin ||A||_F^(1/2), A = X X^T
            for X = G / (||G||_F + epsilon).
        margin: factor, at least 1.
        epsilon: added to ||G||_F.
    """

    norm: Literal["frobenius", "gram"] = "frobenius"
    margin: float = 1.0
    epsilon: float = 0.0

    def unit(self, m: int) -> float:
        """||X||_F that A is formed with. Before a second bound, one that suits float16: the mean diagonal of A is 1."""
        return math.sqrt(m) if self.norm == "gram" else 1.0


FROBENIUS = StepBound()
