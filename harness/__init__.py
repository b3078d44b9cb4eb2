"""The benchmark-regression service around the kernels of `iroot`."""
