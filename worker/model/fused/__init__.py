"""Decoder layers on a GPU with few launches: fused kernels and merged matrix products.

Other packages import `fusing` (DecoderLayers, fuse_layers).
"""
