"""What an engine can execute on a machine, asked before any work: a table with sources, and the checks that read it."""
