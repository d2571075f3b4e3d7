"""`lightship evaluate`: tasks, text quality and speed of a subject, and gates against a baseline."""
