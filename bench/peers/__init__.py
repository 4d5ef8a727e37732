"""Comparison of Falconer's engine with other engines: `make bench-engine`."""
