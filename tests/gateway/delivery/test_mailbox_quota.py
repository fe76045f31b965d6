from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.delivery import mailbox_quota
from gateway.delivery.mailbox_quota import MailboxQuota
from gateway.store.deliveries.mailboxes import Mailbox

LIMIT, LIMIT_BYTES = 5, 50
DEVICES = (1, 2, 3)


def of_rows(device_no: int, count: int, size: int) -> Mailbox:
    return Mailbox(device_no, count, size, count, size)


@given(
    st.lists(
        st.tuples(st.sampled_from(["one", "all", "end"]), st.sampled_from(DEVICES), st.integers(1, 20)), max_size=60
    )
)
def test_no_mailbox_gets_over_a_limit_uncounted(events: list[tuple[str, int, int]]) -> None:
    known = MailboxQuota(LIMIT, LIMIT_BYTES)
    mailboxes: dict[int, list[int]] = {device_no: [] for device_no in DEVICES}
    for event, device_no, size in events:
        mailbox = mailboxes[device_no]
        if event == "end":
            del mailbox[:1]
        elif event == "all":
            known.reserve_everywhere(size)
            for each in mailboxes.values():
                each.append(size)
        else:
            mailbox.append(size)
            if not known.reserve(device_no, size):
                known.counted([of_rows(device_no, len(mailbox), sum(mailbox))])
            else:
                assert len(mailbox) <= LIMIT
                assert sum(mailbox) <= LIMIT_BYTES


def test_what_was_counted_is_not_counted_again_while_there_is_room() -> None:
    known = MailboxQuota(LIMIT, LIMIT_BYTES)
    assert not known.reserve(1, 10)
    known.counted([of_rows(1, 2, 20)])
    assert [known.reserve(1, 10) for _ in range(4)] == [True, True, True, False]
    known.counted([of_rows(1, 1, 40)])
    assert known.reserve(1, 10)
    known.reserve_everywhere(1)
    assert not known.reserve(1, 0)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mailbox_quota, "MAX_DEVICES", 10)
    known = MailboxQuota(LIMIT, LIMIT_BYTES)
    known.counted(of_rows(device_no, 0, 0) for device_no in range(25))
    assert sum(known.reserve(device_no, 1) for device_no in range(25)) <= 10
