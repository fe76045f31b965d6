"""The choice of the stranger that is cut off at the limit of sockets."""

from __future__ import annotations

from broker.network.strangers import Strangers


class Socket:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stranger = True


def test_the_one_who_waits_longest_leaves() -> None:
    strangers: Strangers[Socket] = Strangers()
    sockets = [Socket(str(number)) for number in range(8)]
    for number, socket in enumerate(sockets):
        strangers.add(socket, f"address-{number}")
    assert strangers.pop_victim("address-9") is sockets[0]
    sockets[1].is_stranger = False
    assert strangers.pop_victim("address-9") is sockets[2]
    strangers.discard(sockets[3])
    assert strangers.pop_victim("address-9") is sockets[4]


def test_an_address_with_many_loses_its_own() -> None:
    strangers: Strangers[Socket] = Strangers()
    device, crowd = Socket("device"), [Socket(str(number)) for number in range(10)]
    strangers.add(device, "there")
    for socket in crowd:
        strangers.add(socket, "crowd")
    assert [strangers.pop_victim("crowd") for _ in range(10)] == crowd
    assert strangers.pop_victim("crowd") is device
    assert strangers.pop_victim("crowd") is None


def test_whoever_is_accepted_is_forgotten() -> None:
    strangers: Strangers[Socket] = Strangers()
    sockets = [Socket(str(number)) for number in range(4)]
    for socket in sockets:
        strangers.add(socket, "there")
    sockets[0].is_stranger = sockets[1].is_stranger = sockets[3].is_stranger = False
    strangers.forget_accepted()
    assert len(strangers) == 2
    assert strangers.pop_victim("there") is sockets[2]
    assert strangers.pop_victim("there") is None
