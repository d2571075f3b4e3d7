"""lm-evaluation-harness: our endpoints as one of its models, its result files as our records, and ours as its.

The harness itself is an extra: only `adapter` imports it, and only inside its functions.
"""
