"""GPU kernels for inverse p-th roots and polar factors.

The functions are loaded when first used: the command line and the errors need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from iroot.errors import InvalidInputError, IrootError, UnknownNameError, UnsupportedError

if TYPE_CHECKING:
    from iroot.api import inverse_root, polar, solve_spd
    from iroot.api_gram import solve_gram_spd
    from iroot.api_solve import solve_nonspd
    from iroot.methods._gram import GramOptions
    from iroot.methods.aol import AolOptions
    from iroot.methods.apply_chebyshev import ChebyshevOptions
    from iroot.methods.apply_hybrid import HybridOptions
    from iroot.methods.coupled_newton import CoupledNewtonOptions
    from iroot.methods.dash import DashOptions
    from iroot.methods.floored_pe import FlooredOptions
    from iroot.methods.graded_gram import GradedGramOptions
    from iroot.methods.graded_pe import GradedOptions
    from iroot.methods.gram_chebyshev import GramChebyshevOptions
    from iroot.methods.gram_newton_schulz import GramNewtonSchulzOptions
    from iroot.methods.newton_schulz import NewtonSchulzOptions
    from iroot.methods.polar_express import PolarExpressOptions
    from iroot.methods.solve_coupled_pe import SolveOptions
    from iroot.options import ScheduleOptions
    from iroot.result import Bounds, Result, Termination
    from iroot.workspace import Workspace

__all__ = [
    "AolOptions",
    "Bounds",
    "ChebyshevOptions",
    "CoupledNewtonOptions",
    "DashOptions",
    "FlooredOptions",
    "GradedGramOptions",
    "GradedOptions",
    "GramChebyshevOptions",
    "GramNewtonSchulzOptions",
    "GramOptions",
    "HybridOptions",
    "InvalidInputError",
    "IrootError",
    "NewtonSchulzOptions",
    "PolarExpressOptions",
    "Result",
    "ScheduleOptions",
    "SolveOptions",
    "Termination",
    "UnknownNameError",
    "UnsupportedError",
    "Workspace",
    "__version__",
    "inverse_root",
    "polar",
    "solve_gram_spd",
    "solve_nonspd",
    "solve_spd",
]
__version__ = "0.1.0"

_HOMES = {
    "inverse_root": "iroot.api",
    "polar": "iroot.api",
    "solve_gram_spd": "iroot.api_gram",
    "solve_nonspd": "iroot.api_solve",
    "solve_spd": "iroot.api",
    "AolOptions": "iroot.methods.aol",
    "ChebyshevOptions": "iroot.methods.apply_chebyshev",
    "CoupledNewtonOptions": "iroot.methods.coupled_newton",
    "DashOptions": "iroot.methods.dash",
    "FlooredOptions": "iroot.methods.floored_pe",
    "GradedGramOptions": "iroot.methods.graded_gram",
    "GradedOptions": "iroot.methods.graded_pe",
    "GramChebyshevOptions": "iroot.methods.gram_chebyshev",
    "GramNewtonSchulzOptions": "iroot.methods.gram_newton_schulz",
    "GramOptions": "iroot.methods._gram",
    "HybridOptions": "iroot.methods.apply_hybrid",
    "NewtonSchulzOptions": "iroot.methods.newton_schulz",
    "PolarExpressOptions": "iroot.methods.polar_express",
    "ScheduleOptions": "iroot.options",
    "SolveOptions": "iroot.methods.solve_coupled_pe",
    "Bounds": "iroot.result",
    "Result": "iroot.result",
    "Termination": "iroot.result",
    "Workspace": "iroot.workspace",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'iroot' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
