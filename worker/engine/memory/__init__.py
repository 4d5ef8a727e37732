"""Memory: forecasts of the host memory of a load, and the size of the KV cache.

Other packages import `host_forecast` (HostForecast, LoadVariant) and `kv_cache_size`
(choose_num_blocks, MemoryPlan).
"""
