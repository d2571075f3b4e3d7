"""`lightship simulate`: from a scenario file to tables, JSON and a page."""
