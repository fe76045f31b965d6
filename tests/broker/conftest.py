"""The broker's own tests of sessions, over a store of its own and over one that it shares with others."""

from __future__ import annotations

import pytest

from tests.fakes import FakeSharedStore, World

BOTH_STORES = (
    "test_broker", "test_connection", "test_outbound", "test_packet_ids", "test_reception", "test_session",
    "test_unhandled",
)  # fmt: skip
ALONE = {
    # They look into memory for a session that is away, or at what a start has restored.
    "test_a_dropped_qos_2_identifier_is_not_used_for_another_message",
    "test_a_crash_in_any_phase_of_qos_2_delivers_once",
    "test_all_connections_of_a_credential_are_closed",
    "test_expiry_goes_on_over_a_restart",
    "test_one_session_too_many_is_refused",
    "test_past_pubrec_nothing_is_taken_back",
    "test_subscriptions_survive_a_crash_with_all_their_options",
    "test_unsubscribed_is_gone_after_a_crash",
    "test_what_is_put_off_is_repeated_under_its_identifier_in_its_place",
    # They publish ordinary messages to who is away, whom the router of no broker knows.
    "test_a_body_is_stored_once_for_many_sessions",
    "test_a_member_that_can_take_it_now_is_preferred",
    "test_an_ordinary_message_too_large_for_the_client_is_dropped",
    "test_expired_messages_are_not_sent_and_the_others_carry_what_is_left",
    "test_ordinary_messages_wait_for_a_durable_session",
    "test_the_queue_is_bounded_and_the_newest_loses",
    # Retained messages are each broker's own.
    "test_retained_messages_survive_a_crash_and_expire",
    # A row does not say that nothing of its message has left: it is repeated with DUP, as after a kill.
    "test_a_publish_that_never_left_is_a_first_attempt",
    "test_only_what_never_left_expires",
    # There are no rows of messages that could be missing.
    "test_inflight_rows_without_their_message_are_removed",
}
"""Tests for a broker that has its store alone."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2] in BOTH_STORES and metafunc.function.__name__ not in ALONE:
        metafunc.fixturenames.append("kind_of_store")
        metafunc.parametrize("kind_of_store", ["alone", "shared"], indirect=True)


@pytest.fixture
def kind_of_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "shared":
        monkeypatch.setattr(World, "make_store", FakeSharedStore)
