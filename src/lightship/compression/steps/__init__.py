"""What recipes are made of: one module per step, each saying what it takes, what it needs and which job makes it."""
