"""`lightship plan`: from spec, model and machine to the planner's request, and from its plan to tables and JSON."""
