"""Architectures that can be converted for the OpenVINO engine, as data.

These are the text decoders that optimum-intel 2.2 exports with a key-value cache and that transformers runs without
code from the checkpoint. Left out on purpose: encoder-decoders, state-space models and hybrids, whose state the
engine's paged cache does not hold, and models whose only implementation travels with the checkpoint.

Source: `optimum/exporters/openvino/model_configs.py` of optimum-intel 2.2.0, text-generation-with-past.
"""

from __future__ import annotations

import difflib

CONVERTIBLE_ARCHITECTURES = frozenset(
    {
        "AfmoeForCausalLM",
        "ArceeForCausalLM",
        "BioGptForCausalLM",
        "BitNetForCausalLM",
        "BloomForCausalLM",
        "CodeGenForCausalLM",
        "Cohere2ForCausalLM",
        "CohereForCausalLM",
        "DbrxForCausalLM",
        "DeepseekV2ForCausalLM",
        "DeepseekV3ForCausalLM",
        "Exaone4ForCausalLM",
        "FalconForCausalLM",
        "GPT2LMHeadModel",
        "GPTJForCausalLM",
        "GPTNeoForCausalLM",
        "GPTNeoXForCausalLM",
        "GPTNeoXJapaneseForCausalLM",
        "Gemma2ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3nForCausalLM",
        "Gemma4ForCausalLM",
        "GemmaForCausalLM",
        "Glm4ForCausalLM",
        "GlmForCausalLM",
        "GptOssForCausalLM",
        "GraniteForCausalLM",
        "GraniteMoeForCausalLM",
        "HunYuanDenseV1ForCausalLM",
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "MixtralForCausalLM",
        "MptForCausalLM",
        "OlmoForCausalLM",
        "PersimmonForCausalLM",
        "Phi3ForCausalLM",
        "PhiForCausalLM",
        "PhimoeForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen2MoeForCausalLM",
        "Qwen3ForCausalLM",
        "Qwen3MoeForCausalLM",
        "SmolLM3ForCausalLM",
        "StableLmForCausalLM",
        "Starcoder2ForCausalLM",
        "XGLMForCausalLM",
    }
)


def nearest_architectures(name: str, *, count: int = 3) -> tuple[str, ...]:
    """Known architectures whose names are most like `name`, the nearest first.

    >>> nearest_architectures("Llama2ForCausalLM")[0]
    'LlamaForCausalLM'
    """
    return tuple(difflib.get_close_matches(name, sorted(CONVERTIBLE_ARCHITECTURES), n=count, cutoff=0.0))
