"""Makes a multiple-choice task from tales: which sentence comes next?

    python benchmarks/story_cloze.py TALES.jsonl[.gz] OUT_FOLDER [--items 1000] [--seed 0]

Each item is a passage of three or more sentences, the sentence that follows it in the tale, and three sentences from
other tales. Writes `next-sentence.yaml` and `next-sentence.jsonl`; the tale is the cluster of its items.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from pathlib import Path

# Characters: enough context to tell a tale by, short enough for any model, and endings of comparable length.
_CONTEXT_CHARS = 300
_MIN_ENDING_CHARS, _MAX_ENDING_CHARS = 40, 160
_TASK = """\
version: 1
name: next-sentence
kind: multiple_choice
items: next-sentence.jsonl
prompt: "{passage}"
choices: endings
choice_prefix: " "
answer: answer
cluster: tale
"""


def sentences_of(text: str) -> list[str]:
    """Sentences of running text, white space made single."""
    flat = re.sub(r"\s+", " ", text).strip()
    return [part for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", flat) if part]


def make_items(tales: list[tuple[str, str]], *, num_items: int, seed: int) -> list[dict[str, object]]:
    """Items drawn without repeating a place; the right ending's position is random."""
    rng = random.Random(seed)
    places: list[tuple[str, str, str]] = []
    for name, text in tales:
        sentences = sentences_of(text)
        for index in range(3, len(sentences)):
            ending = sentences[index]
            if not _MIN_ENDING_CHARS <= len(ending) <= _MAX_ENDING_CHARS:
                continue
            first = index
            while first > 0 and sum(map(len, sentences[first:index])) < _CONTEXT_CHARS:
                first -= 1
            places.append((name, " ".join(sentences[first:index]), ending))
    rng.shuffle(places)
    items: list[dict[str, object]] = []
    for number, (name, passage, ending) in enumerate(places[:num_items]):
        wrong: list[str] = []
        while len(wrong) < 3:
            other, _, candidate = rng.choice(places)
            if other != name and candidate not in (*wrong, ending):
                wrong.append(candidate)
        answer = rng.randrange(4)
        endings = [*wrong[:answer], ending, *wrong[answer:]]
        items.append({"id": f"n{number}", "tale": name, "passage": passage, "endings": endings, "answer": answer})
    return items


def write_task(tales: Path, out: Path, *, num_items: int, seed: int) -> Path:
    """Effects: writes task file and items; the task file's path."""
    opener = gzip.open if tales.suffix == ".gz" else open
    with opener(tales, "rt", encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    texts = [(f"{record.get('title', '')} / {record.get('chapter', '')}", record["text"]) for record in records]
    return write_items(make_items(texts, num_items=num_items, seed=seed), out)


def write_items(items: list[dict[str, object]], out: Path) -> Path:
    """Effects: writes task file and items; the task file's path."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "next-sentence.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    path = out / "next-sentence.yaml"
    path.write_text(_TASK)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A next-sentence task from tales.")
    parser.add_argument("tales", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    print(write_task(chosen.tales, chosen.out, num_items=chosen.items, seed=chosen.seed))
