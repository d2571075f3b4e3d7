"""Replicas as processes of one machine: started when they are wanted, drained when they are not, back after a crash.

supervisor.py   owns all replicas: asks `scaling.scale` how many, starts and stops them
replica.py      one replica: a process at a fixed address, and its life
placement.py    which cores and how much memory each gets; pure
status.py       how replicas stand, put together for one rung; pure
messages.py     what gateway and supervisor tell each other
control.py      the socket over which they do
"""
