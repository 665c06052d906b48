"""Streams to browsers, from any WSGI application."""

from .public_error import PublicError, public_error
from .stream import EventStream, is_reconnect, wsgi_response

__all__ = ["EventStream", "PublicError", "is_reconnect", "public_error", "wsgi_response"]
