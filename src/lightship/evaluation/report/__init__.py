"""The report: one self-contained HTML page, and the same as JSON, from stored measurements."""
