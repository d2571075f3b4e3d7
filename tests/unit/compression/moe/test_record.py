"""`moe.json`."""

from __future__ import annotations

import json
from pathlib import Path

from lightship.compression.moe.record import RECORD_NAME, count_parameters, make_record, write_record


def test_count_parameters_mixtral_8x7b_is_as_published() -> None:
    # 32 layers, hidden 4096, FFN 14336, 8 experts of which 2 are active, 8 KV heads of 32, vocabulary 32000, untied:
    # "46.7B total parameters but only uses 12.9B parameters per token" (Mistral AI, December 2023).
    attention = 2 * 4096 * 4096 + 2 * 4096 * 1024
    per_expert = 3 * 4096 * 14336
    layer = attention + 8 * per_expert + 8 * 4096 + 2 * 4096
    total = 32 * layer + 2 * 32000 * 4096 + 4096
    counted = count_parameters(total=total, per_expert=per_expert, num_layers=32, num_experts=8, top_k=2)
    assert round(counted["total"] / 1e9, 1) == 46.7
    assert round(counted["active_per_token"] / 1e9, 1) == 12.9


def test_make_record_says_sizes_and_the_training_it_needs_with_sources(tmp_path: Path) -> None:
    for method in ("upcycle", "carve", "prune-experts"):
        record = make_record(method, sizes={"num_experts": 4}, parameters={"total": 9}, note="n")
        write_record(tmp_path, record)
        written = json.loads((tmp_path / RECORD_NAME).read_text())
        assert written["method"] == method
        assert written["num_experts"] == 4
        assert written["parameters"] == {"total": 9}
        assert written["note"] == "n"
        assert written["training_needed"]["sources"]
        assert "distillation.json" in written["is_trained"]
