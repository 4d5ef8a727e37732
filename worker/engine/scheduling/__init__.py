"""Scheduling: which groups run, how many tokens each computes, and which blocks they hold.

Other packages import `scheduler` (Scheduler), `block_manager` (BlockManager), `sequence_group`
(SequenceGroup) and `step_plan` (StepPlan, Chunk: what a step computes).
"""
