"""What decides whether a generated answer is right: one module or package per kind of task; see `registry`."""
