"""Everything that blocks on a server: who owns a connection, and what may be sent again.

One exchange is one request and its reply. It owns its connection by a *lease*::

                    route.connect                     Lease.release
        (nothing) ----------------> fresh --.    .------------------> idle
                                            |    |   (body at its      |
                                            v    |    end, nothing     | Pool.lease, if usable and
                                          leased-'    behind it, the   | younger than the expiry
                                            ^    |    server keeps it) |
                                            |    |                     |
                                            '----+-- reused <----------'
                                                 |
                                                 | Lease.close: left, cancelled, timed out, broken, refused, dropped
                                                 v
                                               closed

A lease ends exactly once; after that it can shut nothing down. Cancelling, limits, ``close`` and the garbage collector
act on leases; a forked child has none of its parent's.

Each question has one place that answers it:

=====================================  ==============================================
Who owns a connection?                 ``lease`` (``pool`` keeps, ``route`` opens)
What may be sent again?                ``call``
Whose exception is it?                 ``failures``
What time is it?                       ``clock``
Who sees the call?                     ``patching`` (``by_requests`` is the other way)
Which settings?                        ``settings``, ``endpoint``
What do the bytes say?                 ``http1``, ``exchange``, ``reply``
=====================================  ==============================================
"""

from .call import Call
from .clock import Clock
from .endpoint import Endpoint
from .reply import Reply
from .settings import Settings
from .transport import Transport

__all__ = ["Call", "Clock", "Endpoint", "Reply", "Settings", "Transport"]
