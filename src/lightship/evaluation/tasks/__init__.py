"""Question sets with right answers: files, prompts, scoring, runs that can be resumed."""
