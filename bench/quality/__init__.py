"""Measurements of a model's quality: perplexity, and the effect of quantization."""
