"""Signals and streams: what stops the work, what does not, and which exit code is left."""

from __future__ import annotations

import signal

import pytest

from ratlip_cli.errors import Interrupted, RatlipError


def test_interruption_is_no_exception_that_those_who_read_damaged_files_could_catch() -> None:
    """Otherwise `prepare` takes an image during which a signal came for a damaged one."""
    assert not issubclass(Interrupted, Exception | RatlipError)
    with pytest.raises(Interrupted) as raised:
        raise Interrupted("terminated", signal.SIGTERM)
    assert raised.value.exit_code == 143
