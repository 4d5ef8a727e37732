"""Benchmarks of the service: `falconer bench service`, `make bench` and `make smoke-7b`.

The command line imports `ServiceBench` from `service_bench`.
"""
