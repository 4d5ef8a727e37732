"""Benchmarks of the engine alone: `falconer bench engine`, and measurements of its internals.

The command line imports `EngineBench` from `engine_bench`.
"""
