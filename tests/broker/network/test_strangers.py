"""The choice of the stranger that is cut off at the limit of sockets."""

from __future__ import annotations

from broker.network.strangers import MAX_SPARED_SOCKETS, Strangers


class Socket:
    def __init__(self, name: str) -> None:
        self.name = name
        self.is_stranger = True
        self.has_sent = False

    def spare(self) -> bool:
        spared, self.has_sent = self.has_sent, False
        return spared


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


def test_who_has_said_something_is_spared_once() -> None:
    strangers: Strangers[Socket] = Strangers()
    device, silent = Socket("device"), [Socket(str(number)) for number in range(3)]
    for socket in (device, *silent):
        strangers.add(socket, "there")
    device.has_sent = True
    assert [strangers.pop_victim("there") for _ in range(5)] == [*silent, device, None]


def test_a_newcomer_has_a_bounded_number_spared() -> None:
    strangers: Strangers[Socket] = Strangers()
    talking = [Socket(str(number)) for number in range(MAX_SPARED_SOCKETS + 2)]
    for socket in talking:
        strangers.add(socket, "there")
        socket.has_sent = True
    assert strangers.pop_victim("there") is talking[MAX_SPARED_SOCKETS]
    assert talking[MAX_SPARED_SOCKETS + 1].has_sent, "not looked at"
