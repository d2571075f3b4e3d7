"""Moved to `routing`; these names stay here until the last importer has followed."""

from lightship.gateway.routing.health import FAILED_CONNECTS as FAILED_CONNECTS
from lightship.gateway.routing.pool import ReplicaPool as ReplicaPool
from lightship.gateway.routing.replica import ProbedEngine as ProbedEngine
from lightship.gateway.routing.replica import Replica as Replica
