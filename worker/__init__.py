"""The worker: a process that loads a model, claims jobs from the queue and runs them.

The command line imports `main`, `settings` and `model_cli`, and `serve` imports `host_memory`. The
rest is internal: `process` assembles the parts, and `engine_thread` runs the engine.
"""
