"""Connection: HTTP to one model's server: its key, a pool, time limits, and errors with names."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.request import getproxies, proxy_bypass

import httpx2

from quietdesk.engine.remote.endpoint import Address, Json
from quietdesk.errors import (
    ConfigError,
    EndpointCutError,
    EndpointError,
    EndpointRefusedError,
    EndpointTimeoutError,
    EndpointUnreachableError,
)

Result = TypeVar("Result")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
"""Between two attempts; what a server asks for with Retry-After may be longer."""
LONGEST_RETRY_AFTER_S = 60.0
"""A server that wants to be asked later than this is not waited for."""
END = "[DONE]"
"""What stands in the last event of a stream."""
MAX_EVENT_BYTES = 2**22
MAX_ERROR_BYTES = 2**16
REASON_LENGTH = 300
"""Letters of a server's own words in an error."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, and how often it is asked again."""

    connect_s: float = 5.0
    first_token_s: float = 120.0
    next_token_s: float = 30.0
    retries: int = 3


def proxy_for(address: Address) -> str | None:
    """The proxy that the environment names for an address; None for none.

    Never one for an address on this machine, whatever the environment says.
    """
    if address.is_loopback or proxy_bypass(address.host):
        return None
    proxies = getproxies()
    scheme = address.url.partition(":")[0]
    return proxies.get(scheme) or proxies.get("all")


class Connection:
    """A pool of connections to one server; used on one event loop."""

    def __init__(
        self,
        address: Address,
        patience: Patience,
        *,
        key: str = "",
        proxy: str | None = None,
        n_connections: int = 100,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """A pool without a connection yet.

        Args:
            address: Where to.
            patience: How long to wait.
            key: The server's key, sent as a bearer token; never shown.
            proxy: The address of a proxy; None for none. The environment is not looked at.
            n_connections: At the same time at most.
            jitter: Random shares, 0 to 1, of the pauses between attempts.

        Raises:
            ConfigError: the key cannot stand in a header.
        """
        if not key.isascii() or any(letter <= " " or letter == "\x7f" for letter in key):
            raise ConfigError(
                f"The key of {address.url} has letters that cannot be sent: blanks or non-ASCII."
            )
        self.address = address
        self.patience = patience
        self._key = key
        self._jitter = jitter
        self._client = httpx2.AsyncClient(
            headers={"authorization": f"Bearer {key}"} if key else {},
            proxy=proxy,
            trust_env=False,
            timeout=httpx2.Timeout(patience.first_token_s, connect=patience.connect_s, pool=None),
            limits=httpx2.Limits(
                max_connections=n_connections, max_keepalive_connections=n_connections
            ),
        )

    async def get(self, url: str) -> Json:
        """The JSON at an address; asked again as `retried` does."""
        return await self.retried(lambda: self._exchange("GET", url, None))

    async def post(self, url: str, content: Json) -> Json:
        """The JSON that a server answers to some; asked again as `retried` does."""
        return await self.retried(lambda: self._exchange("POST", url, content))

    async def retried(
        self, ask: Callable[[], Awaitable[Result]], began: Callable[[], bool] = lambda: False
    ) -> Result:
        """What `ask` gives, tried again with growing pauses where that may help.

        Args:
            ask: One attempt.
            began: Tells whether a part of the answer was passed on: then it is not asked again.

        Raises:
            EndpointError: the last attempt's.
        """
        for attempt in range(self.patience.retries + 1):
            try:
                return await ask()
            except EndpointError as error:
                wanted = getattr(error, "retry_after_s", None)
                last = attempt == self.patience.retries
                late = wanted is not None and wanted > LONGEST_RETRY_AFTER_S
                if last or late or began() or not error.may_retry:
                    raise
                pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**attempt)
                # Full jitter: clients that were refused together do not come back together.
                await asyncio.sleep(self._jitter() * pause if wanted is None else wanted)
        raise AssertionError("the last attempt returns or raises")

    async def events(self, url: str, content: Json) -> AsyncGenerator[str]:
        """The data of the events that a server streams, up to its end mark, which is the last.

        Raises:
            EndpointError: it refuses, is not there, breaks off, or sends something else.
        """
        with self._named():
            async with self._client.stream(
                "POST", url, json=content, headers={"accept": "text/event-stream"}
            ) as response:
                await self._check(response)
                events = httpx2.EventSource(response, MAX_EVENT_BYTES)
                async for event in events:
                    yield event.data
                    if event.data == END:
                        return

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    def refused(
        self, status: int, reason: str, retry_after_s: float | None = None
    ) -> EndpointRefusedError:
        """An error with the server's own words, shortened, without the key."""
        words = " ".join(reason.split())
        if self._key:
            words = words.replace(self._key, "…")
        if len(words) > REASON_LENGTH:
            words = words[:REASON_LENGTH] + "…"
        return EndpointRefusedError(
            self.address.url, status, words.rstrip(".") or "without a reason", retry_after_s
        )

    async def _exchange(self, method: str, url: str, content: Json) -> Json:
        with self._named():
            response = await self._client.request(method, url, json=content)
            await self._check(response)
        try:
            return response.json()
        except ValueError:
            kind = response.headers.get("content-type", "nothing")
            raise EndpointCutError(
                self.address.url, f"answered with {kind!r} where JSON was expected."
            ) from None

    async def _check(self, response: httpx2.Response) -> None:
        """Raise what stands in an answer that is none of success."""
        if response.is_success:
            return
        said = b""
        async for chunk in response.aiter_bytes():
            said += chunk
            if len(said) > MAX_ERROR_BYTES:
                break
        reason = error_words(said) or response.reason_phrase
        if response.is_redirect:
            reason = f"it has moved to {response.headers.get('location', 'another place')!r}"
        wait = _seconds(response.headers.get("retry-after"))
        raise self.refused(response.status_code, reason, wait)

    @contextmanager
    def _named(self) -> Iterator[None]:
        """The client's errors as ours."""
        url = self.address.url
        try:
            yield
        except httpx2.ConnectTimeout:
            late = EndpointTimeoutError(
                url, "take a connection", "endpoint_connect_s", self.patience.connect_s
            )
            late.may_retry = True
            raise late from None
        except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
            raise EndpointUnreachableError(url, str(error) or type(error).__name__) from None
        except httpx2.TimeoutException:
            raise EndpointTimeoutError(
                url, "answer", "endpoint_first_token_s", self.patience.first_token_s
            ) from None
        except httpx2.SSEError as error:
            raise EndpointCutError(url, f"sent no stream of events: {error}") from None
        except httpx2.HTTPError as error:
            why = str(error) or type(error).__name__
            raise EndpointCutError(
                url, f"broke the connection off: {why}.", may_retry=True
            ) from None


def error_words(said: bytes | str) -> str:
    """The words of an error, as servers write them: OpenAI's shape, FastAPI's, or bare text."""
    try:
        value = json.loads(said)
    except ValueError:
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return "" if text.lstrip().startswith("<") else text
    while isinstance(value, dict):
        value = next(
            (value[key] for key in ("error", "message", "detail", "msg") if key in value), ""
        )
    if isinstance(value, list) and value:
        return error_words(json.dumps(value[0]))
    return str(value)


def _seconds(header: str | None) -> float | None:
    """What Retry-After says, in seconds from now; None where it says nothing that can be read."""
    if not header:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        moment = parsedate_to_datetime(header)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
