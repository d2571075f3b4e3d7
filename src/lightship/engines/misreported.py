"""Errors of clients that an engine reports as its own.

A 500 is tried again at other replicas and held against the one that gave it. So one client with a body that
llama-server calls its own failure could take every replica out of service; such an answer becomes the 400 that it is.
"""

from __future__ import annotations

from lightship.wire.errors import ApiError

# What llama-server throws as a plain exception while it reads a request, and answers with 500; its own failures
# ("Compute error.") say something else. Seen with the server of llama-cpp-python 0.3.36.
_LLAMACPP = (
    "[json.exception.",
    "Failed to parse tools",
    "image input is not supported",
    "audio input is not supported",
)


def clients_fault(error: ApiError, *, server: str) -> ApiError | None:
    """The client's error that an engine's error really is; None where it is the engine's own.

    Args:
        error: As the engine reported it.
        server: Its `server` header.
    """
    if error.status != 500 or server != "llama.cpp" or not error.message.startswith(_LLAMACPP):
        return None
    return ApiError(400, error.message, type="invalid_request_error", origin="engine")
