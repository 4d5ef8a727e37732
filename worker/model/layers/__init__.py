"""Layers of the network: attention, rotary embeddings, linear layers, quantized weights.

Other packages import `cuda_attention` (plan_attention), `decode_attention` (decode_kernel),
`rotary`, `packed_linear`, `weight_only_linear`, `float8_linear` and `quantization` (Quantization).
"""
