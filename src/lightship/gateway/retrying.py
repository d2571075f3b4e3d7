"""Moved to `routing`; these names stay here until the last importer has followed."""

from lightship.gateway.routing.retrying import RESERVE_RETRIES as RESERVE_RETRIES
from lightship.gateway.routing.retrying import RetryBudget as RetryBudget
from lightship.gateway.routing.retrying import RetryingEngine as RetryingEngine
