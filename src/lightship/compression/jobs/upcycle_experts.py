"""Job `upcycle_experts`: a dense checkpoint in, a mixture of copies of its feed-forward networks out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightship.compression.moe.configs import read_config, upcycled_config
from lightship.compression.moe.layouts import upcycle_layout
from lightship.compression.moe.record import count_parameters, make_record, write_record
from lightship.compression.moe.shards import CheckpointTensors, write_shards
from lightship.compression.moe.upcycle import Upcycling, upcycled_tensors
from lightship.compression.quantization.checkpoint_io import finish_checkpoint


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `checkpoint`, `output` (an existing empty folder), `num_experts`, `top_k`, `router_std`, `expert_noise`,
    `seed`.
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    layout = upcycle_layout(json.loads((checkpoint / "config.json").read_text("utf-8")))
    dense = read_config(checkpoint)
    config = upcycled_config(dense, layout, num_experts=job["num_experts"], top_k=job["top_k"])
    num_layers = int(dense.num_hidden_layers)
    upcycling = Upcycling(job["num_experts"], job["router_std"], job["expert_noise"], job["seed"])
    source = CheckpointTensors(checkpoint)
    total = write_shards(upcycled_tensors(source, layout, upcycling, num_layers=num_layers), output)
    config.save_pretrained(output)
    finish_checkpoint(checkpoint, output)
    per_expert = 3 * int(dense.hidden_size) * int(dense.intermediate_size)
    parameters = count_parameters(
        total=total, per_expert=per_expert, num_layers=num_layers, num_experts=job["num_experts"], top_k=job["top_k"]
    )
    record = make_record(
        "upcycle",
        sizes={"num_experts": job["num_experts"], "top_k": job["top_k"]},
        parameters=parameters,
        architecture=layout.architecture,
        router_std=upcycling.router_std,
        expert_noise=upcycling.expert_noise,
        equals_dense_model=upcycling.expert_noise == 0,
    )
    write_record(output, record)
    print(json.dumps({"event": "progress", "done": 1, "total": 1}), flush=True)
