"""Trains and distils small Llama-architecture models; imported only inside the `train` toolchain (needs torch)."""
