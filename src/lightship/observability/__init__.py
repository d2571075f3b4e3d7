"""Names of metrics and log set-up, in one place."""
