"""Ways to read through a cache, each as an application would write it.

A way's `read` is a generator: it yields what it wants done (Send, Pause, ASK_ORIGIN, AwaitMessage), is resumed with
the outcome, and returns the value. The driver runs a thousand of them at once and knows none of the ways.

Nobody is made to look worse than need be. Both locks are of the careful kind: a unique token, released by
compare-and-delete, and the key looked at again once the lock is taken (else the origin is called a second time by
whoever read nil just before the value came). What belongs together goes out in one write. A subscriber shares its
connection with its commands (RESP3) and looks again after subscribing, so that no wake-up is lost.
"""

import hashlib
import itertools
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from .origin import Origin, number_of
from .resp import encode

KEY = b"report:today"
LOCK = b"lock:" + KEY
CHANNEL = b"ready:" + KEY
LOCK_MS = 10_000
POLL_MS = 50

RELEASE = b"if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
RELEASE_SHA1 = hashlib.sha1(RELEASE).hexdigest()


class Send:
    """Commands in one write. Resumed with the reply, or with the list of replies if there are several commands."""

    __slots__ = ("count", "data")

    def __init__(self, *commands: bytes) -> None:
        self.data = b"".join(commands)
        self.count = len(commands)


@dataclass(frozen=True, slots=True)
class Pause:
    """Sleep."""

    seconds: float


@dataclass(frozen=True, slots=True)
class AwaitMessage:
    """Wait for a message published since the last subscription. Resumed with whether one came in time."""

    seconds: float


class AskOrigin:
    """Call the origin. Resumed with its answer."""


class Request:
    """One read of one client: when it began and whether it found the key missing."""

    __slots__ = ("missed", "started")

    def __init__(self, started: float) -> None:
        self.started = started
        self.missed = False


Read = Generator[Send | Pause | AwaitMessage | AskOrigin, Any, bytes]

ASK_ORIGIN = AskOrigin()
POLL_PAUSE = Pause(POLL_MS / 1000)
GET = encode("GET", KEY)
SUBSCRIBE = encode("SUBSCRIBE", CHANNEL)
UNSUBSCRIBE = encode("UNSUBSCRIBE", CHANNEL)
PUBLISH = encode("PUBLISH", CHANNEL, "ready")
SEND_GET = Send(GET)


class NoProtection:
    """GET; nil: ask the origin, SET."""

    name = "none"
    title = "no protection"
    needs_module = False
    unlimited_origin = False

    def __init__(self, origin: Origin, ttl_ms: int) -> None:
        self.origin, self.ttl_ms = origin, ttl_ms

    def write(self, value: bytes, ttl_ms: int) -> bytes:
        """The command that stores the value."""
        return encode("SET", KEY, value, "PX", ttl_ms)

    def read(self, request: Request) -> Read:
        value = yield SEND_GET
        if value is None:
            request.missed = True
            value = yield ASK_ORIGIN
            yield Send(self.write(value, self.ttl_ms))
        return value


class NoProtectionUnlimited(NoProtection):
    """The same before an origin that answers any number of calls at once: what a stampede does at the very best."""

    name = "none-unlimited"
    title = "no protection, unlimited DB"
    unlimited_origin = True


class LockAndPoll(NoProtection):
    """SET NX decides who asks the origin; everybody else looks again every 50 ms."""

    name = "poll"
    title = f"lock, poll each {POLL_MS} ms"
    after_release: tuple[bytes, ...] = ()

    def __init__(self, origin: Origin, ttl_ms: int) -> None:
        super().__init__(origin, ttl_ms)
        self.tokens = itertools.count()

    def read(self, request: Request) -> Read:
        while True:
            value = yield SEND_GET
            if value is not None:
                return value
            request.missed = True
            token = b"token-%d" % next(self.tokens)
            if (yield self.try_lock(token)) is not None:
                return (yield from self.regenerate(token))
            yield POLL_PAUSE

    def try_lock(self, token: bytes) -> Send:
        return Send(encode("SET", LOCK, token, "NX", "PX", LOCK_MS))

    def regenerate(self, token: bytes) -> Read:
        """The work of the lock's holder. The value may have come between its GET and its lock."""
        release = encode("EVALSHA", RELEASE_SHA1, 1, LOCK, token)
        value = yield SEND_GET
        if value is None:
            value = yield ASK_ORIGIN
            yield Send(self.write(value, self.ttl_ms), release, *self.after_release)
        else:
            yield Send(release)
        return value


class LockAndPublish(LockAndPoll):
    """SET NX decides who asks the origin; everybody else subscribes and is woken by PUBLISH."""

    name = "publish"
    title = "lock, pub/sub wake-up"
    after_release = (PUBLISH,)

    def read(self, request: Request) -> Read:
        value = yield SEND_GET
        if value is not None:
            return value
        request.missed = True
        while True:
            token = b"token-%d" % next(self.tokens)
            if (yield self.try_lock(token)) is not None:
                return (yield from self.regenerate(token))
            _, value = yield Send(SUBSCRIBE, GET)
            if value is not None:
                yield Send(UNSUBSCRIBE)
                return value
            yield AwaitMessage(LOCK_MS / 1000)
            value, _ = yield Send(GET, UNSUBSCRIBE)
            if value is not None:
                return value


class CacheGuard(NoProtection):
    """CACHE.GETSM; nil: ask the origin, CACHE.SETSM. The server makes everybody else wait."""

    name = "cache-guard"
    title = "cache-guard"
    needs_module = True

    send_get = Send(encode("CACHE.GETSM", KEY))

    def write(self, value: bytes, ttl_ms: int) -> bytes:
        return encode("CACHE.SETSM", KEY, value, ttl_ms)

    def read(self, request: Request) -> Read:
        delivered = self.origin.delivered
        value = yield self.send_get
        if value is None:
            request.missed = True
            value = yield ASK_ORIGIN
            yield Send(self.write(value, self.ttl_ms))
        elif number_of(value) > delivered:
            request.missed = True  # the value did not exist when this read was sent: the server kept it waiting
        return value


STRATEGIES: tuple[type[NoProtection], ...] = (
    NoProtection,
    NoProtectionUnlimited,
    LockAndPoll,
    LockAndPublish,
    CacheGuard,
)
