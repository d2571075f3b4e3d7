"""Cross-entropy of texts under a checkpoint, computed by plain transformers in float32: the independent oracle.

    TOOLCHAIN_PYTHON benchmarks/reference_bits_per_byte.py CHECKPOINT TEXTS.json

Runs in the toolchain `openvino-convert`. TEXTS.json is a list of texts; each must fit the model's context. Prints
`{"nats": ..., "num_bytes": ..., "bits_per_byte": ...}`: every token after the first (BOS) is scored.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path


def main() -> None:
    """Prints the totals as JSON."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint, texts_path = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    nats, num_bytes, num_tokens = 0.0, 0, 0
    for text in json.loads(Path(texts_path).read_text("utf-8")):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            log_probs = torch.log_softmax(model(ids).logits.double(), dim=-1)
        nats -= float(log_probs[0, :-1].gather(1, ids[0, 1:, None]).sum())
        num_tokens += ids.shape[1] - 1
        num_bytes += len(text.encode())
    bits_per_byte = nats / math.log(2) / num_bytes
    print(json.dumps({"nats": nats, "num_bytes": num_bytes, "num_tokens": num_tokens, "bits_per_byte": bits_per_byte}))


if __name__ == "__main__":
    main()
