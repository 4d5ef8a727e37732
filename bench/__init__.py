"""Benchmarks of the engine and the service, alone and compared with other engines.

The command line imports `report` and `workloads`, `EngineBench` from `bench.engine` and
`ServiceBench` from `bench.service`.
"""
