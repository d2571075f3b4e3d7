"""Prints the figures of the built-in model's card, held-out bits/byte on its own worker, and samples of its writing.

    python tools/model_card_figures.py --corpus FOLDER

FOLDER holds `fairytales-test.jsonl.gz` (records with chapter and text), books the model was not trained on. Every
passage is scored behind its chapter's heading, as in training. The figures are made by the worker that serves.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import tempfile
from pathlib import Path

import aiohttp

from lightship.artifacts.sources.builtin import builtin_checkpoint, builtin_students
from lightship.artifacts.texts import Document, TextSet
from lightship.compression.ir_template import assemble
from lightship.engines.openvino.adapter import OpenVinoAdapter
from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.engines.process import WorkerProcess, free_port
from lightship.evaluation.endpoint import CompletionEndpoint
from lightship.evaluation.quality.protocol import QualityProtocol, measure_quality
from lightship.ports.measurements import Metric

HEADINGS = ("The Fox and the Lantern", "The Princess Who Could Not Sleep", "How the Bear Lost His Tail")
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 180}


def held_out(corpus: Path) -> TextSet:
    """The test passages as documents."""
    with gzip.open(corpus / "fairytales-test.jsonl.gz", "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    documents = (Document(str(i), r["text"].strip(), r["chapter"].strip()) for i, r in enumerate(records))
    return TextSet("fairytales-test", tuple(documents))


async def figures(name: str, checkpoint: Path, texts: TextSet) -> None:
    """Prints one model's figures and samples."""
    adapter = OpenVinoAdapter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "ir"
        folder.mkdir()
        assemble(checkpoint, folder)
        settings = OpenVinoWorkerConfig(
            model_name=name, variant_name="fp16", variant_digest="", folder=str(folder), port=free_port()
        )
        adapter.write_config(settings, Path(temporary) / "worker.json")
        worker = WorkerProcess(
            name=name,
            command=adapter.worker_command(Path(temporary) / "worker.json"),
            base_url=settings.address,
            log_path=Path(temporary) / "worker.log",
        )
        await worker.start(startup_timeout_s=120)
        try:
            async with aiohttp.ClientSession() as session:
                protocol = QualityProtocol(top_k=1, num_documents=len(texts.documents))
                endpoint = CompletionEndpoint(settings.address, model=name, session=session)
                result = await measure_quality(endpoint, protocol=protocol, texts=texts)
                for figure in result.figures:
                    if figure.metric in {Metric.BITS_PER_BYTE, Metric.PERPLEXITY} and figure.interval:
                        low, high = figure.interval.low, figure.interval.high
                        print(f"{name}: {figure.metric} {figure.value:.4f} ({low:.4f}-{high:.4f}), {figure.protocol}")
                for seed, heading in enumerate(HEADINGS):
                    body = {"model": name, "messages": [{"role": "user", "content": heading}], "seed": seed, **SAMPLING}
                    async with session.post(f"{settings.address}/v1/chat/completions", json=body) as reply:
                        answer = await reply.json()
                    print(f"\n[{heading}, seed {seed}]\n{answer['choices'][0]['message']['content']}\n")
        finally:
            await worker.stop(drain_timeout_s=5)


async def main() -> None:
    """Prints all of it."""
    parser = argparse.ArgumentParser(description="Figures and samples of the built-in model's card.")
    parser.add_argument("--corpus", type=Path, required=True)
    args = parser.parse_args()
    texts = held_out(args.corpus)
    for name, checkpoint in {"fairytales": builtin_checkpoint("fairytales"), **builtin_students("fairytales")}.items():
        await figures(name, checkpoint, texts)


if __name__ == "__main__":
    asyncio.run(main())
