"""Nodes of a cluster, and how a slot moves between them."""

from collections.abc import Callable
from typing import Any

from .eventually import eventually
from .server import Server

SLOTS = 16_384
CONFIG = {"cluster-enabled": "yes", "cluster-node-timeout": 5_000, "repl-ping-replica-period": 100_000}


def slot_of(key: bytes) -> int:
    """CRC-16/XMODEM of the key, or of the part in braces."""
    start = key.find(b"{")
    if start >= 0 and (end := key.find(b"}", start)) > start + 1:
        key = key[start + 1 : end]
    crc = 0
    for byte in key:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc % SLOTS


class Cluster:
    """Two primaries that share the slots; the second one has a replica."""

    def __init__(self, nodes: list[Server]) -> None:
        self.nodes = nodes
        self.first, self.second, self.replica = nodes
        self.ids = {node: node.call("CLUSTER", "MYID") for node in nodes}
        self._names = 0
        for epoch, node in enumerate(nodes, 1):
            # Nodes of one epoch settle later which of them is right, perhaps in the middle of a test.
            assert node.call("CLUSTER", "SET-CONFIG-EPOCH", epoch) == b"OK"
        for node in nodes[1:]:
            node.call("CLUSTER", "MEET", "127.0.0.1", self.first.port)
        self.first.call("CLUSTER", "ADDSLOTSRANGE", 0, SLOTS // 2 - 1)
        self.second.call("CLUSTER", "ADDSLOTSRANGE", SLOTS // 2, SLOTS - 1)
        self.until(lambda node: node.call("CLUSTER", "INFO").count(b"cluster_known_nodes:3") == 1)
        eventually(lambda: self.replica.control().call("CLUSTER", "REPLICATE", self.ids[self.second]) == b"OK", 20)
        self.replica.primary = self.second
        self.until(lambda node: b"cluster_state:ok" in node.call("CLUSTER", "INFO"))
        self.replica.wait_for_sync()

    def until(self, agreed: Callable[[Server], Any]) -> None:
        for node in self.nodes:
            eventually(lambda node=node: agreed(node), 20)

    def key_of(self, node: Server) -> bytes:
        """A name not used before, of a slot of the first or of the second."""
        while True:
            self._names += 1
            name = b"key %d" % self._names
            if (slot_of(name) < SLOTS // 2) == (node is self.first):
                return name

    def begin_to_move(self, key: bytes, source: Server, target: Server) -> None:
        assert target.call("CLUSTER", "SETSLOT", slot_of(key), "IMPORTING", self.ids[source]) == b"OK"
        assert source.call("CLUSTER", "SETSLOT", slot_of(key), "MIGRATING", self.ids[target]) == b"OK"

    def end_move(self, key: bytes, target: Server) -> None:
        for node in (target, self.first if target is self.second else self.second):
            assert node.call("CLUSTER", "SETSLOT", slot_of(key), "NODE", self.ids[target]) == b"OK"
