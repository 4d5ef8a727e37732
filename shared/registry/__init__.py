"""Which workers are alive, and which model they serve or load, as Redis records it.

Other packages import `Registry` from `worker_registry` and `announce_model` from `loading_model`.
"""
