"""The OpenAI-compatible front door; `stack.py` lists its layers and is the first file to read."""
