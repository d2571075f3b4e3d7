"""Manifests and a cluster: put there, compared, taken away.

    applying   server-side apply in an order that works, after a dry run of everything
    waiting    until what was applied serves, or why it does not
    diffing    what an apply would change
    deleting   what an apply has made

Each takes manifests as dictionaries, whoever rendered them, and touches nothing that is not labelled as ours. What a
former apply made and nobody renders any more is known from an inventory (`inventory`).
"""
