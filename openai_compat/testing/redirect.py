"""Requests meant for a real server, sent to a fake one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import BaseAdapter, HTTPAdapter


class Redirect:
    """Sends requests, with path and query as they are, to the server at ``url``."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url)
        self._adapter = HTTPAdapter()

    def send(
        self, adapter: BaseAdapter, request: requests.PreparedRequest, options: Mapping[str, Any]
    ) -> requests.Response:
        """Send one; the response names the URL that was meant."""
        meant = str(request.url)
        redirected = request.copy()
        redirected.url = urlsplit(meant)._replace(scheme=self._address.scheme, netloc=self._address.netloc).geturl()
        response = self._adapter.send(redirected, **{**options, "proxies": {}})
        response.url, response.request = meant, request
        return response

    def close(self) -> None:
        """Close the connections to it."""
        self._adapter.close()
