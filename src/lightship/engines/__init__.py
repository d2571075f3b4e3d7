"""Programs that serve variants, behind one port: `openvino` (own worker) and `remote` (any OpenAI endpoint)."""
