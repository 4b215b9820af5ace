"""Servers as objects, and clients that show what is on the wire."""

from .clock import Clock
from .eventually import eventually
from .herd import Answer, Herd
from .raw import Push, RawClient, RespError, RespSet, as_map, is_error
from .server import Server

__all__ = [
    "Answer",
    "Clock",
    "Herd",
    "Push",
    "RawClient",
    "RespError",
    "RespSet",
    "Server",
    "as_map",
    "eventually",
    "is_error",
]
