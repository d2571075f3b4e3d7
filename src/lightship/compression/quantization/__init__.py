"""Quantization of checkpoints for vLLM: formats, allocation input, and what the jobs that use llm-compressor share."""
