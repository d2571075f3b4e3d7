"""The command line: the only place that constructs things and reads the environment."""
