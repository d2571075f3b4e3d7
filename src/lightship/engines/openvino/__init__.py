"""Engine `openvino`: a worker round OpenVINO GenAI's continuous-batching pipeline that speaks the OpenAI API.

Two processes per worker, because the pipeline's `step()` holds Python's interpreter lock for as long as the model
computes, seconds for a long prompt: `pipeline` owns the model and nothing else; the process started by `__main__`
owns HTTP, text and scoring, and answers health checks whatever the model does. They exchange `frames`.

This file imports nothing, so that each process loads only what it needs.
"""
