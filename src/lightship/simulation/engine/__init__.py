"""One replica as a model of its time: `exact` makes every step, `skipping` whole runs of equal steps at once."""
