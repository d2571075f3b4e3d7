"""What happens to requests while the shared counters cannot be reached."""

from __future__ import annotations

from enum import StrEnum


class StoreLoss(StrEnum):
    """The choices.

    allow: each process counts alone, with its share of rates and concurrency; budgets are not enforced.
    refuse: no request of a tenant with limits is served.
    by_budget: refuse where a budget is set, allow elsewhere.

    What a process took in advance before the loss is used up in any case, for the rest of its lease.
    """

    ALLOW = "allow"
    REFUSE = "refuse"
    BY_BUDGET = "by_budget"
