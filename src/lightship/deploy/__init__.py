"""What is to run where, in the formats of platforms: pure, from `ports.deployment` and the spec to documents.

`apply/` is their way into a cluster.
"""
