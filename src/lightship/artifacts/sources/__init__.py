"""Where checkpoints come from: one module per kind of source, each giving back a folder on this machine."""
