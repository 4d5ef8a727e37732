"""The Falcon network: configuration, layers, KV cache, adapters, for torch and OpenVINO.

Other packages import `config` (ModelConfig), `falcon` (FalconForCausalLM), `openvino_falcon`
(build_graph), `kv_cache` (KVCache), `lora` (ServedAdapter), `device_map` (DeviceMap),
`tensor_parallel` (TensorParallel) and `errors` (CheckpointError).
"""
