"""What every process of the service needs before its own work: settings, logs, signals, sockets.

`settings` is the base of all settings, and `cli_options` makes a command of them. `log_config`
configures logging, and `standard_streams` keeps output from failing. `signals` selects the signals
that stop a process, `sockets` binds addresses, and `asyncio_tasks` cancels tasks. `allocator` has
variables for processes that hold a model.
"""
