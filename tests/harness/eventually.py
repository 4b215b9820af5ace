"""Waiting for a condition with a deadline: what tests do instead of sleeping."""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
SLOWER = int(os.environ.get("CACHE_GUARD_SLOWER", "1"))


def eventually(
    fn: Callable[[], T], timeout: float = 5, message: str | Callable[[], str] = "", interval: float = 0.005
) -> T:
    """Calls `fn` until its result is true and returns that; AssertionError after `timeout` seconds.

    An AssertionError inside `fn` counts as "not yet"; the last one is shown when time is up. The pause between
    two calls grows from `interval` to 0.05 s.
    """
    deadline = time.monotonic() + timeout * SLOWER
    while True:
        failure: AssertionError | None = None
        try:
            result = fn()
        except AssertionError as error:
            result, failure = None, error
        else:
            if result:
                return result
        if time.monotonic() >= deadline:
            text = message() if callable(message) else message
            seen = f"{failure}" if failure else f"last result {result!r}"
            raise AssertionError(f"not within {timeout} s: {text or fn}; {seen}") from failure
        time.sleep(interval)
        interval = min(interval * 1.5, 0.05)
