"""What an API server would refuse, or worse, would take: rules that hold for every rendering, checked on every one.

Schemas tell types and unknown fields; these are the rules beyond them. Pure: resources in, problems out.
"""

from lightship.deploy.check.problem import Problem
from lightship.deploy.check.resources import resource_problems

__all__ = ["Problem", "resource_problems"]
