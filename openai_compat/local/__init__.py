"""llama.cpp's own server with a small model, on this machine."""
