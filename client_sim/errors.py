"""Errors of the device client; a program that handles `DeviceError` handles all of them.

DeviceError
├── EnrolmentFailed  there is no credential, and none is to be had: `Device.enrol`
├── FetchFailed      an attachment cannot be had: `Device.fetch`
└── JournalTooNew    the journal was written by a later version: making a `Device`

Wrong arguments raise ValueError or TypeError, and a journal that cannot be opened raises sqlite3.Error. A connection
that cannot be made raises nothing: the device tries again, and `on_state` tells why.
"""

from __future__ import annotations


class DeviceError(Exception):
    """An error of the device client; its text is a sentence for a person."""


class EnrolmentFailed(DeviceError):
    """A code was not traded for a token; the text says why. `code` is the server's, as `code_used`; empty if it did not
    answer, or not as it should."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class FetchFailed(DeviceError):
    """An attachment is not there, is not what its name says, or cannot be reached; the text says which."""


class JournalTooNew(DeviceError):
    """The journal was written by a later version of this program."""
