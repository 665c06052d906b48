"""The wire format, sans I/O: bytes and values, no sockets, threads, clocks or environment."""
