"""Engines behind a URL: what they have in common. A `Wire` says how one kind of server is spoken to; `HttpGenerator`
does the rest for all of them: several servers, retries, faults, stop tokens, limits, cancellation.

    prompt ids ─► wire.body ─► POST to the server that fleet.py picks ─► lines.py ─► wire.reader ─► tokens
"""

from gpt_oss.backends.http.faults import Patience
from gpt_oss.backends.http.generator import HttpGenerator
from gpt_oss.backends.http.wire import Heard, Json, Reader, Wire

__all__ = ["Heard", "HttpGenerator", "Json", "Patience", "Reader", "Wire"]
