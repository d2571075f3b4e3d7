"""Which replica of a rung gets an attempt, and what keeps a bad one from hurting.

Read in this order:

    picking         the choice itself, pure: hard filters, load gate, session, prefix, least work
    prefixes sessions load recent engine_metrics      what it knows about prompts, sessions and work
    health breaker outliers failures                  what it knows about replicas that do badly
    replica pool watching                             who owns that knowledge, and keeps it up to date
    balancing hedging retrying                        the layers of the stack
    config collector                                  settings and metrics
"""
