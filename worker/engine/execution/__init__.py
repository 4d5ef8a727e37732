"""Execution: runs the plan of a step on torch or OpenVINO.

Other packages import `executor` (Executor), `torch_runner` (Runner, the interface; ModelRunner),
`openvino_runner` (OpenVinoRunner) and `packed_batch` (PackedStep: a step as arrays).
"""
