"""HTTP/1.1 on one connection: uvicorn's protocol with limits on heads, time and connections.

`serving.http.server` makes one for each connection. What uvicorn leaves open is closed here: heads of any
size and age, offers to upgrade that swallow the body, answers that nobody reads, and requests on their way at
a stop.
"""

from __future__ import annotations

import asyncio
import http
import uuid
from asyncio import TimerHandle
from typing import TYPE_CHECKING, Any, Final

import httptools
from uvicorn._types import ASGI3Application, ASGISendEvent
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from serving.http import problems
from serving.http.connections import Connections, Phase
from serving.http.kinds import KINDS

if TYPE_CHECKING:
    from serving.service import Service

_MOST_TARGET_BYTES: Final = 8 * 1024
_MOST_HEAD_BYTES: Final = 32 * 1024
_MOST_FIELDS: Final = 100
_MOST_UNPARSED_BYTES: Final = 64 * 1024
"""Bytes that come without completing anything: a field without end, or a chunk's extension."""
_MOST_WAITING: Final = 8
"""Requests of one caller that are parsed and wait for the answers to the earlier ones; more wait unparsed."""
_PARSED_AT_ONCE: Final = (1024, 8 * 1024)
"""Bytes of heads, and of chunks: a request may hide in each twenty."""
_BODY_PARSED_AT_ONCE: Final = 64 * 1024
_MOST_DISCARDED_BYTES: Final = 32_000_000
"""What a caller may go on sending after an early answer before it is no longer read."""
_DISCARDED_IF_OVERLOADED: Final = 250_000
"""The same if the answer is 503: then there is no time for what is thrown away."""
_LINGER_SECONDS: Final = 2.0
"""How long a caller may go on sending after an early answer, so that it reads the answer and no reset."""
_NOT_FORWARDED: Final = (b"upgrade", b"http2-settings")
_HTTP2: Final = b"PRI * HTTP/2.0"


class _Refused(Exception):
    """A request that is answered before its head is complete."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class _Flow(FlowControl):
    """Reads on only once what has come is parsed."""

    holding = False

    def resume_reading(self) -> None:
        """Read on, unless bytes wait to be parsed."""
        if not self.holding:
            super().resume_reading()


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, service: Service, connections: Connections, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._service, self._open_connections = service, connections
        self.phase, self.since = Phase.NEVER_SPOKE, self.loop.time()
        self._head_timer: TimerHandle | None = None
        self._write_timer: TimerHandle | None = None
        self._head_bytes = self._unparsed_bytes = self._body_left = 0
        self._ahead, self._parsed = b"", 0
        self._offered = self._lingering = self._close_after = False
        self._most_discarded = _MOST_DISCARDED_BYTES
        self._refusal: _Refused | None = None
        self._running: RequestResponseCycle | None = None

    # --- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a place among the connections, and wait for a head."""
        super().connection_made(transport)
        self.flow: _Flow = _Flow(transport)
        if not self._open_connections.enter(self):
            self._refuse("overloaded", "There are too many connections. Retry later.")
            return
        self._arm_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give the place back."""
        self._open_connections.leave(self)
        self._disarm()
        self.pipeline.clear()
        if self._running:  # uvicorn tells the newest request only
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close at once, whatever is still to be sent."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse; answer what is refused, and ignore offers to speak another protocol."""
        if self._lingering or self._refusal:
            self._unparsed_bytes += len(data)
            if self._refusal or self._unparsed_bytes > self._most_discarded:
                self.flow.pause_reading()
            return
        self._unset_keepalive_if_required()
        self._ahead, self._parsed = self._ahead[self._parsed :] + data, 0
        self._parse()

    def _parse(self) -> None:
        """Parse what has come until enough requests wait: thousands parsed at once would delay all others."""
        if self.phase in (Phase.NEVER_SPOKE, Phase.IDLE):
            if self.phase is Phase.IDLE:
                self._enter(Phase.HEAD)
            self._arm_head_timer()
        while (
            self._parsed < len(self._ahead)
            and len(self.pipeline) < _MOST_WAITING
            and not (self._lingering or self._refusal or self.transport.is_closing())
        ):
            size = min(self._body_left, _BODY_PARSED_AT_ONCE) or _PARSED_AT_ONCE[self.phase is Phase.BODY]
            data = self._ahead[self._parsed : self._parsed + size]
            self._parsed += len(data)
            self._parse_some(data)
        unwanted = self._lingering or self._refusal or self.transport.is_closing()
        if unwanted or self._parsed >= len(self._ahead):
            self._ahead, self._parsed = b"", 0
        self.flow.holding = bool(self._ahead)
        if self._ahead:
            self.flow.pause_reading()

    def _parse_some(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            refused = error.__context__
            if isinstance(refused, _Refused):
                self._refuse(refused.code, refused.detail)
            elif data.startswith(_HTTP2) and self.phase is Phase.NEVER_SPOKE:
                self._refuse("http-version", "This service speaks HTTP/1.1, not HTTP/2.")
            else:
                self._refuse("bad-request", "This is not a request of HTTP/1.1.")
        else:
            if self._unparsed_bytes > _MOST_UNPARSED_BYTES and not self._lingering:
                self._refuse("head-too-large", _too_large())

    def _feed(self, data: bytes) -> None:
        """Parse `data`; after an offer to upgrade, parse the same request once more without the offer."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._offered = False
                rest = data[offer.args[0] :]
                head = b"%s %s HTTP/1.1\r\n" % (self.scope["method"].encode(), self.url)
                kept = [(name, value) for name, value in self.headers if name not in _NOT_FORWARDED]
                fields = b"".join(
                    b"%s: %s\r\n" % (name, _without_upgrade(value) if name == b"connection" else value)
                    for name, value in kept
                )
                self.parser = httptools.HttpRequestParser(self)
                data = head + fields + b"\r\n" + rest
                continue
            return

    # --- what the parser finds

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head_bytes = self._body_left = 0

    def on_url(self, url: bytes) -> None:
        """A part of the address."""
        super().on_url(url)
        if len(self.url) > _MOST_TARGET_BYTES:
            raise _Refused("uri-too-long", f"The address may have at most {_MOST_TARGET_BYTES} bytes.")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header field, or a trailer."""
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes > _MOST_HEAD_BYTES or len(self.headers) > _MOST_FIELDS:
            raise _Refused("head-too-large", _too_large())

    def on_headers_complete(self) -> None:
        """The head is complete: the request is answered from here on."""
        self._unparsed_bytes = 0
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise _Refused("method-not-allowed", "This service is no proxy.")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            raise _Refused("bad-request", "A request has one header Host.")
        if self.parser.should_upgrade():
            self.scope["method"] = method.decode("ascii")
            self._offered = True
            return
        self._disarm_head_timer()
        self._enter(Phase.BODY)
        self._body_left = next((int(value) for name, value in self.headers if name == b"content-length"), 0)
        try:
            super().on_headers_complete()
        except httptools.HttpParserInvalidURLError as error:
            raise _Refused("bad-request", "The address is malformed.") from error

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._unparsed_bytes = 0
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unparsed_bytes = self._body_left = 0
        if self._offered:
            return
        if self.phase is Phase.BODY:
            self._enter(Phase.ANSWER)
        super().on_message_complete()

    # --- the answer

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running, send = cycle, cycle.send

        async def closing(message: ASGISendEvent) -> None:
            """Close after an answer that comes before the body is complete, and while the service drains."""
            if message["type"] == "http.response.start":
                if message["status"] == http.HTTPStatus.SERVICE_UNAVAILABLE:
                    self._most_discarded = _DISCARDED_IF_OVERLOADED
                if cycle.more_body or self._service.draining:
                    cycle.keep_alive = False
            elif not message.get("more_body", False) and not cycle.keep_alive:
                self._close_after = True
                cycle.keep_alive = True  # `on_response_complete` closes, without a reset
            await send(message)

        cycle.send = closing  # type: ignore[method-assign]
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        """The answer is written: wait for the next request, or close."""
        if self._close_after:
            self.server_state.total_requests += 1
            self.pipeline.clear()
            self._linger()
            return
        if self.pipeline:
            super().on_response_complete()
        elif self._refusal:
            self._refuse(self._refusal.code, str(self._refusal))
        else:
            self._enter(Phase.IDLE)
            super().on_response_complete()
        if self._ahead:
            self.loop.call_soon(self._parse)

    def _refuse(self, code: str, detail: str) -> None:
        """Answer with a problem after the answers to earlier requests, and close."""
        if self._waits_for_an_earlier_answer():
            self._refusal = _Refused(code, detail)
            return
        kind = KINDS[code]
        self._open_connections.metrics.answered("other", "other", kind.status)
        self._open_connections.closed(code)
        cycle: RequestResponseCycle | None = self.cycle
        unanswered = cycle is not None and not cycle.response_complete
        if cycle and unanswered and cycle.response_started:
            self.abort()
            return
        identity = uuid.uuid4().hex
        body = problems.encode(code, detail, identity)
        fields = {
            "content-type": problems.MEDIA_TYPE,
            "content-length": str(len(body)),
            "x-request-id": identity,
            "connection": "close",
        }
        if kind.status == 503:
            fields["retry-after"] = "1"
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(STATUS_LINE[kind.status] + head.encode() + b"\r\n" + body)
        if cycle and unanswered:
            cycle.disconnected = True
            cycle.message_event.set()
        self._linger()

    def _waits_for_an_earlier_answer(self) -> bool:
        """Whether a complete request is still unanswered; the refused one leaves the pipeline."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        if not cycle.more_body:
            return True
        if self.pipeline:  # the newest is at the left
            self.pipeline.popleft()
            return True
        return False

    def _linger(self) -> None:
        """Say that nothing more comes, read on for a moment, then close: a reset would destroy the answer."""
        self._lingering = True
        self._unparsed_bytes = 0
        self._disarm()
        self._unset_keepalive_if_required()
        self._ahead, self._parsed, self.flow.holding = b"", 0, False
        self._enter(Phase.NEVER_SPOKE)  # it may make room
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        self.transport.write_eof()
        self._head_timer = self.loop.call_later(_LINGER_SECONDS, self._end_lingering)

    def _end_lingering(self) -> None:
        """Close, but let a caller that reads slowly have the whole answer."""
        if self._unread and self.loop.time() - self.since < self._service.settings.upload_seconds:
            self._head_timer = self.loop.call_later(_LINGER_SECONDS, self._end_lingering)
        else:
            self.abort()

    @property
    def _unread(self) -> bool:
        return self.transport.get_write_buffer_size() > 0

    # --- time

    def _enter(self, phase: Phase) -> None:
        if self._write_timer is not None and phase in (Phase.BODY, Phase.ANSWER):
            phase = Phase.UNREAD
        if phase is not self.phase or phase is not Phase.UNREAD:
            self.phase, self.since = phase, self.loop.time()

    def _arm_head_timer(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self._service.settings.head_seconds, self._head_timed_out)

    def _disarm_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _disarm(self) -> None:
        self._disarm_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._unparsed_bytes or self._head_bytes:
            seconds = self._service.settings.head_seconds
            self._refuse("head-timeout", f"The head of the request was not complete after {seconds:g} s.")
        else:
            self._open_connections.closed("silent")
            self.end()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection; one whose caller has not read would otherwise stay for ever."""
        if self._unread:
            self._write_timed_out()
            return
        self._open_connections.closed("idle")
        super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """The caller does not read: it has as long as an upload may take."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(
                self._service.settings.upload_seconds, self._write_timed_out
            )
            if not self._lingering:
                self._enter(self.phase)

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self.phase is Phase.UNREAD:
            self._enter(Phase.ANSWER)

    def _write_timed_out(self) -> None:
        self._open_connections.closed("unread")
        self.abort()

    # --- the stop

    def shutdown(self) -> None:
        """The listener is closed: answer what is on its way; `Server` closes what stays idle."""
        cycle: RequestResponseCycle | None = self.cycle
        if cycle and not cycle.response_complete:
            cycle.keep_alive = False

    def end(self) -> None:
        """Close, once everything is written."""
        self.transport.close()


def _without_upgrade(connection: bytes) -> bytes:
    tokens = [token.strip() for token in connection.split(b",")]
    return b", ".join(token for token in tokens if token.lower() not in _NOT_FORWARDED)


def _too_large() -> str:
    return (
        f"The head of a request may have at most {_MOST_HEAD_BYTES} bytes and {_MOST_FIELDS} fields. Send "
        "fewer or smaller headers."
    )
