"""Content-addressed store of variants, append-only store of measurements, and the checks before either is used."""
