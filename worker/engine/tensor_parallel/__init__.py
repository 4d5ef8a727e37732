"""Tensor parallelism: one network in several processes, behind one runner.

Other packages import `processes` (RankProcesses), `rank_process` (what a rank runs) and `runner`
(TensorParallelRunner).
"""
