"""The Falcon network: configuration, layers, KV cache, adapters, for torch and OpenVINO.

Other packages import `config` (ModelConfig), `falcon` (FalconForCausalLM), `openvino_falcon`
(build_graph, QuantizedWeights), `kv_cache` (KVCache), `lora` (ServedAdapter), `device_map`
(DeviceMap), `quantized_linears` (quantize_linears), `tensor_parallel` (TensorParallel),
`json_fields` (typed JSON) and `errors` (CheckpointError).
"""
