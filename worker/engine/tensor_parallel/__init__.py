"""Tensor parallelism: one network in several processes, behind one runner.

Other packages import `loading` (load_parallel).
"""
