"""Execution: runs the plan of a step on torch or OpenVINO.

Other packages import `executor` (Executor), `torch_runner` (Runner, the interface; ModelRunner),
`openvino_runner` (OpenVinoRunner), `packed_batch` (PackedStep: a step as arrays), `static_decoding`
(StaticDecoder: steps of fixed shapes) and `cuda_graphs` (CudaGraphs, capture_decoding).
"""
