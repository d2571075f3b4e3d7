"""HTTP/1.1 to other servers: connections, kept ones, and answers read by callback or by a waiting task.

Why not aiohttp: a gateway spends most of its time per request in the client library, and there each request is built
of dozens of objects, and each piece of a body wakes a task through a queue. Here bytes go from the socket through
httptools' parser to whoever takes the answer, in one callback.

Not a general HTTP client: no redirects, cookies, proxies, compression or retries; what needs those takes a library.
"""
