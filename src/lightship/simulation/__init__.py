"""A whole service in virtual time: the gateway's and the controller's own decisions, engines as models of their time.

scenario.py        what is simulated, as a user writes it; `reading` makes it from YAML, `profiles` finds its engines
traffic/           when requests come, how long they are, whose they are
engine/            one replica: step by step as the simulated engine does it, or whole runs of steps at once
replicas.py        the replicas of one rung in one region: start, crash, drain, scale
routing.py         which replica: the gateway's `pick_replica` over the few that it could choose
region.py          one gateway: the dispatcher, retries, holding, spill
world.py           regions, outages, time; `simulate` is the entry
statistics.py      what came of it, in bounded memory
report/            one HTML page

Nothing here decides: `gateway.dispatch`, `gateway.routing`, `gateway.activation` and `scaling` do.
"""
