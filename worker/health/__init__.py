"""Report how a worker is: `heartbeat`, `load_reporter` to Redis, `metrics`, `probes` over HTTP."""
