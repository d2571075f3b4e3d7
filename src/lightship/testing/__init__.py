"""Public fakes and contract suites for users' tests and ours."""
