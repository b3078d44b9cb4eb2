"""GPU kernels for inverse p-th roots and polar factors."""

from iroot.errors import InvalidInputError, IrootError, UnknownNameError, UnsupportedError

__all__ = ["InvalidInputError", "IrootError", "UnknownNameError", "UnsupportedError", "__version__"]
__version__ = "0.1.0"
