"""A deployment as others' objects, and their way into a cluster."""
