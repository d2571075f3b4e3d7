"""A client of the Kubernetes API: a way in, requests with time limits, lists that are kept up to date by watching.

    access (kubeconfig, in_cluster)  ->  credentials, exchange  ->  client  ->  mirror

Why not a library: of those with asyncio, one keeps watches open without any time limit and the other sets no limit on
any call, and each brings eight packages and more into the gateway; aiohttp is a dependency anyway. Objects are plain
dictionaries, as the server sends them. Not for operators of custom resources: no code is generated, no cache is shared.
"""
