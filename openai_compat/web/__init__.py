"""Streams to browsers, from any WSGI application."""

from .stream import EventStream, PublicError, is_reconnect, public_error, wsgi_response

__all__ = ["EventStream", "PublicError", "is_reconnect", "public_error", "wsgi_response"]
