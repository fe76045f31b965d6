from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery.headroom import Headroom

LIMIT, LIMIT_BYTES = 5, 50
DEVICES = (1, 2, 3)


@given(
    st.lists(
        st.tuples(st.sampled_from(["one", "all", "end"]), st.sampled_from(DEVICES), st.integers(1, 20)), max_size=60
    )
)
def test_no_mailbox_gets_over_a_limit_uncounted(events: list[tuple[str, int, int]]) -> None:
    headroom = Headroom(LIMIT, LIMIT_BYTES)
    mailboxes: dict[int, list[int]] = {device_no: [] for device_no in DEVICES}
    for event, device_no, size in events:
        mailbox = mailboxes[device_no]
        if event == "end":
            del mailbox[:1]
        elif event == "all":
            headroom.take_everywhere(size)
            for each in mailboxes.values():
                each.append(size)
        else:
            mailbox.append(size)
            if not headroom.take(device_no, size):
                headroom.counted([(device_no, len(mailbox), sum(mailbox))])
            else:
                assert len(mailbox) <= LIMIT
                assert sum(mailbox) <= LIMIT_BYTES


def test_what_was_counted_is_not_counted_again_while_there_is_room() -> None:
    headroom = Headroom(LIMIT, LIMIT_BYTES)
    assert not headroom.take(1, 10)
    headroom.counted([(1, 2, 20)])
    assert [headroom.take(1, 10) for _ in range(4)] == [True, True, True, False]
    headroom.counted([(1, 1, 40)])
    assert headroom.take(1, 10)
    headroom.take_everywhere(1)
    assert not headroom.take(1, 0)
