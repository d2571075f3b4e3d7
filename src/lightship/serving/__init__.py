"""HTTP server plumbing shared by gateway and workers: body limits, error objects, streaming, drain, uvicorn."""
