"""Engine `simulated`: the OpenAI API in front of a cost model of continuous batching; no model, no weights.

For load, fault and policy tests without hardware, and for predicting what a real engine would do. `cost_model`,
`kv_cache`, `batching` and `simulation` are pure and know no clock; `worker` runs the same scheduler in real time behind
HTTP. What it says is made up (`text`), how long it takes is not: see `ports.engine_profile`.
"""
