"""Requests for a model that sleeps or starts: they are held, not refused, while it wakes.

config.py     bounds on what is held, and for how long
decide.py     hold, pass on, or give up: pure
holding.py    the layer of the stack in which requests wait
link.py       the connection to the supervisor of this machine's replicas
collector.py  metrics
"""
