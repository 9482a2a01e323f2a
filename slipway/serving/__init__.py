"""One replica: an OpenAI-compatible API over whatever generates; no request of it needs PyTorch in this room."""
