"""Quality figures of checkpoints by plain transformers in float32 on the CPU: the independent oracle.

    PYTHON benchmarks/reference_quality.py REFERENCE [CANDIDATE] [--texts TEXTS.json] [--choices CHOICES.json]
        [--top-k 64] [--resolution 1e-6]

PYTHON has torch and transformers and nothing of ours (the toolchain `openvino-convert` does). Nothing is imported from
Lightship, and nothing here is written like it: a shared mistake would confirm itself.

TEXTS.json is a list of texts, or of objects with `text`; each must fit the model's context. Every token after the first
(BOS) is scored. CHOICES.json is a list of `{"prompt": ..., "choices": [...], "answer": index}` with an optional
`prefix` between the two (default one space). Prints one JSON object:

    texts.documents[]   nats, num_tokens, num_bytes, perplexity, and for two checkpoints kl_nats (whole vocabulary),
                        kl_top_k_nats (both sides reduced to the tokens among the top k of both and one tail),
                        top1_agreement; means over the document's scored tokens
    texts.total         bits_per_byte, perplexity (over all tokens), means over documents of the rest
    choices[]           per item: logprobs (context's own tokens, then what the whole text has beyond as many),
                        logprobs_whole (the whole text's own tokens, scored after as many as the context has), each with
                        the predicted index for acc (highest sum) and acc_norm (highest sum per character)

Divergence is KL(reference || candidate) in nats; with one checkpoint there is none. Choices are scored by CANDIDATE
where there is one.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any


class Checkpoint:
    """A model and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def token_ids(self, text: str) -> list[int]:
        """Tokens of a text, with what the tokenizer adds."""
        return list(self.tokenizer(text).input_ids)

    def log_probs(self, token_ids: list[int]) -> Any:
        """Log-probabilities of every next token, double precision, (tokens, vocabulary); computed in float32."""
        import torch

        limit = self.model.config.max_position_embeddings
        if len(token_ids) > limit:
            raise SystemExit(f"a text has {len(token_ids)} tokens; the model takes {limit}")
        with torch.inference_mode():
            logits = self.model(torch.tensor([token_ids])).logits[0].double()
        return torch.log_softmax(logits, dim=-1)


def token_nats(log_probs: Any, token_ids: list[int]) -> list[float]:
    """Negative log-likelihood of each token after the first."""
    return [-float(log_probs[position, token]) for position, token in enumerate(token_ids[1:])]


def top_k_kl(p: Any, q: Any, top_k: int, resolution: float) -> float:
    """Divergence of one position after both sides keep only tokens among the top k of both, and merge the rest."""
    kept = sorted(set(p.topk(top_k).indices.tolist()) & set(q.topk(top_k).indices.tolist()))
    total = math.fsum(math.exp(p[token]) * float(p[token] - q[token]) for token in kept)
    p_tail = max(0.0, 1.0 - math.fsum(math.exp(p[token]) for token in kept))
    q_tail = max(resolution, 1.0 - math.fsum(math.exp(q[token]) for token in kept))
    if p_tail > resolution:
        total += p_tail * math.log(p_tail / q_tail)
    return max(total, 0.0)


def document(text: str, sides: list[Checkpoint], *, top_k: int, resolution: float) -> dict[str, Any]:
    """Figures of one text; nats and perplexity are the last checkpoint's."""
    token_ids = sides[0].token_ids(text)
    if any(side.token_ids(text) != token_ids for side in sides):
        raise SystemExit("the two checkpoints make different tokens of a text")
    tables = [side.log_probs(token_ids) for side in sides]
    nats = token_nats(tables[-1], token_ids)
    figures: dict[str, Any] = {
        "nats": math.fsum(nats),
        "num_tokens": len(nats),
        "num_bytes": len(text.encode()),
        "perplexity": math.exp(math.fsum(nats) / len(nats)),
    }
    if len(sides) == 2:
        p, q = (table[:-1] for table in tables)  # nothing is scored after the last token
        figures |= {
            "reference_nats": math.fsum(token_nats(tables[0], token_ids)),
            "kl_nats": float((p.exp() * (p - q)).sum(-1).mean()),
            "kl_top_k_nats": math.fsum(
                top_k_kl(a, b, min(top_k, a.shape[-1]), resolution) for a, b in zip(p, q, strict=True)
            )
            / len(nats),
            "top1_agreement": float((p.argmax(-1) == q.argmax(-1)).double().mean()),
        }
    return figures


def totals(documents: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of the whole set."""
    nats = math.fsum(entry["nats"] for entry in documents)
    figures = {
        "nats": nats,
        "bits_per_byte": nats / math.log(2) / sum(entry["num_bytes"] for entry in documents),
        "perplexity": math.exp(nats / sum(entry["num_tokens"] for entry in documents)),
    }
    for name in ("kl_nats", "kl_top_k_nats", "top1_agreement"):
        if name in documents[0]:
            figures[name] = math.fsum(entry[name] for entry in documents) / len(documents)
    return figures


def choice_scores(item: dict[str, Any], side: Checkpoint) -> dict[str, Any]:
    """Both ways to score the choices of one item, and what each predicts."""
    prompt, prefix = item["prompt"], item.get("prefix", " ")
    context = prompt.rstrip()
    context_ids = side.token_ids(context)
    own: list[float] = []
    whole: list[float] = []
    for choice in item["choices"]:
        whole_ids = side.token_ids(context + prompt[len(context) :] + prefix + choice)
        scored = whole_ids[len(context_ids) :]
        for sums, ids in ((own, context_ids + scored), (whole, whole_ids)):
            sums.append(-math.fsum(token_nats(side.log_probs(ids), ids)[-len(scored) :]) if scored else -math.inf)
    result: dict[str, Any] = {"answer": item.get("answer")}
    for name, sums in (("logprobs", own), ("logprobs_whole", whole)):
        per_char = [value / len(choice) for value, choice in zip(sums, item["choices"], strict=True)]
        result[name] = [value if math.isfinite(value) else None for value in sums]
        suffix = name.removeprefix("logprobs")
        result[f"acc_index{suffix}"] = sums.index(max(sums))
        result[f"acc_norm_index{suffix}"] = per_char.index(max(per_char))
    return result


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description="Quality figures by plain transformers in float32.")
    parser.add_argument("reference", type=Path)
    parser.add_argument("candidate", type=Path, nargs="?")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--choices", type=Path)
    parser.add_argument("--top-k", type=int, default=64)
    parser.add_argument("--resolution", type=float, default=1e-6, help="smallest tail that is taken as real")
    args = parser.parse_args()
    sides = [Checkpoint(folder) for folder in (args.reference, args.candidate) if folder is not None]
    output: dict[str, Any] = {}
    if args.texts:
        entries = json.loads(args.texts.read_text("utf-8"))
        texts = [entry if isinstance(entry, str) else entry["text"] for entry in entries]
        documents = [document(text, sides, top_k=args.top_k, resolution=args.resolution) for text in texts]
        output["texts"] = {"documents": documents, "total": totals(documents)}
    if args.choices:
        items = json.loads(args.choices.read_text("utf-8"))
        output["choices"] = [choice_scores(item, sides[-1]) for item in items]
    print(json.dumps(output))


if __name__ == "__main__":
    main()
