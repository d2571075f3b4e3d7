"""How many replicas there should be, and when one is started, stopped or displaced: decisions without I/O or a clock.

Driven by the supervisor of one machine, by the controller in a cluster and by the simulation.
"""
