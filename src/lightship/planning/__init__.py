"""Will it fit, how fast, how many replicas, what it costs: plans before anything runs, each figure with its source.

Pure, but for reading what this machine is.
"""
