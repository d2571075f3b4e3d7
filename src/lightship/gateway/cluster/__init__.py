"""The gateway in a Kubernetes cluster, without an operator: who leads, which replicas there are and should be.

    election     one gateway of several leads, by a Lease
    controller   the front: status, wake, changed; and the tasks behind them
    pods         a Pod as a replica's phase; Pods as replicas to route to
    loads        what all gateways have under way
    scaler       one Deployment: what `scale` decides is patched into its `scale`

What decides is pure; a gateway that cannot reach the API server serves on with what it knew, and decides nothing.
"""
