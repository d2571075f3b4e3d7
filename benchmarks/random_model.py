"""Writes a checkpoint with random weights in the shape of a 0.5B-parameter model: for speed, never for quality.

    TOOLCHAIN_PYTHON benchmarks/random_model.py FOLDER [LAYERS]

Runs in the toolchain `openvino-convert` (needs torch, transformers, tokenizers). The shape is that of Qwen2-0.5B
(24 layers, hidden 896, 14 query and 2 key-value heads of 64, FFN 4,864, vocabulary 151,936, tied) under the Llama
architecture; fewer LAYERS make a smaller one. The tokenizer knows every id, so that each generated token becomes text
as with a real model.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VOCAB_SIZE = 151_936
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}


def write_tokenizer(folder: Path) -> None:
    """A byte-level tokenizer whose entries above the bytes are made-up words that only decoding meets."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|pad|>", "<|begin|>", "<|end|>"]
    words = [*special, *alphabet, "QQ"]  # one merge, for llama.cpp reads no tokenizer without any
    vocabulary = {word: index for index, word in enumerate(words)}
    for index in range(len(words), VOCAB_SIZE):
        vocabulary[f"Ġw{index}"] = index  # "Ġ" stands for a space in byte-level vocabularies
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Q", "Q")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": special[0],
        "bos_token": special[1],
        "eos_token": special[2],
        "model_max_length": SHAPE["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def main() -> None:
    """Writes weights, configuration and tokenizer."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    shape = {**SHAPE, "num_hidden_layers": int(sys.argv[2]) if len(sys.argv) > 2 else SHAPE["num_hidden_layers"]}
    config = LlamaConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0, dtype=torch.bfloat16, **shape)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    print(f"{model.num_parameters():,} parameters in {folder}")


if __name__ == "__main__":
    main()
