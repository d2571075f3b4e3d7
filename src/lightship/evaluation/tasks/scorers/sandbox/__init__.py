"""Runs programs that a model wrote, in a process of their own that is held as tightly as the system allows.

`process` starts and ends that process; `runner` and `confinement` are all that runs inside it, before the program.
This package and its parents import nothing: the runner loads them without the packages that are installed.
"""
