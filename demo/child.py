"""One way in a process of its own, so that drawing the live table never delays a client that is being measured."""

import multiprocessing
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection

from .driver import Driver
from .outcome import Outcome, Plan, Progress
from .strategies import STRATEGIES

JOIN_SECONDS = 5


def measure(port: int, plan: Plan, name: str) -> Iterator[Progress | Outcome]:
    """Looks at the way while it runs, at last its outcome. RuntimeError if the process fails."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=drive, args=(port, plan, name, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        while True:
            message = ours.recv()
            if isinstance(message, str):
                raise RuntimeError(message)
            yield message
            if isinstance(message, Outcome):
                return
    except EOFError:
        raise RuntimeError(f"{name}: the measuring process ended without a result") from None
    finally:
        ours.close()
        process.join(JOIN_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def drive(port: int, plan: Plan, name: str, pipe: Connection) -> None:
    """The process: sends Progress, then an Outcome or the text of what went wrong."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    way = next(each for each in STRATEGIES if each.name == name)
    try:
        driver = Driver(port, plan, way, pipe.send)
        try:
            pipe.send(driver.run())
        finally:
            driver.close()
    except BrokenPipeError:
        pass
    except Exception as error:
        pipe.send(f"{way.title}: {type(error).__name__}: {error}")
