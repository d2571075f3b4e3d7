"""Work that runs inside a toolchain: one module per job kind, a JSON file in, an artifact folder out.

Modules here import nothing of Lightship but what its toolchain can import; `toolchains/bootstrap.py` starts them.
"""
