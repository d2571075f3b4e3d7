"""Speed of one (variant, target) pair, measured over HTTP on the worker that serves it."""
