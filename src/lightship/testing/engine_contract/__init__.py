"""What every engine behind the gateway has to do, as checks on a running server: ours and anybody's.

`python -m lightship.testing.engine_contract http://127.0.0.1:8000 --model NAME --like vllm` runs them on a server.
"""
