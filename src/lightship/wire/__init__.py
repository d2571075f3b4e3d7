"""OpenAI-shaped records: requests, replies, errors and server-sent events, without behaviour."""
