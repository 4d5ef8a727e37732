"""The worker: a process that loads a model, claims jobs from the queue and runs them.

The command line imports `main`, `settings` and `model_cli`. The service, the engine and the model
import `host_memory`, which imports only psutil. The rest is internal: `process` assembles the
parts, and `engine_thread` runs the engine.
"""
