"""vLLM's server as a worker: described here, run by the interpreter of a toolchain; nothing here imports vLLM."""
