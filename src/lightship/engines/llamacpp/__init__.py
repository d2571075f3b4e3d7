"""llama.cpp's server as an engine: GGUF files, on one CPU or at the edge."""
