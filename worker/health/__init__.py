"""Report how a worker is: `heartbeat` to the registry, `metrics` and `probes` over HTTP."""
