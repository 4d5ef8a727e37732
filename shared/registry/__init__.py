"""Record in Redis which workers are alive, and which model they serve or load.

Other packages import `Registry` from `worker_registry` and `announce_model` from `loading_model`.
"""
