"""What the tests of the transport share: a certificate, a trust in it, and pauses that are noted, not made."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from openai_compat import CancelToken


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context for 127.0.0.1, and the path of the bundle that trusts it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    bundle = Path(tmp_path_factory.mktemp("tls")) / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, str(bundle)


@pytest.fixture
def tls(certified: tuple[ssl.SSLContext, str], monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's TLS context for 127.0.0.1, which clients trust."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certified[1])
    return certified[0]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What would have been waited between tries, in seconds."""
    waited: list[float] = []
    monkeypatch.setattr("openai_compat.timeouts.time.sleep", waited.append)
    monkeypatch.setattr(CancelToken, "wait", lambda token, seconds: waited.append(seconds))
    return waited
