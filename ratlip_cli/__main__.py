"""Entry point of the ``ratlip`` command and of ``python -m ratlip_cli``."""

import signal

from ratlip_cli.cli import signals, waiting


def main() -> None:
    """Run the command line, see `ratlip_cli.cli.app`. It obeys signals while it is imported and while Python ends."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    waiting.wait_briefly()
    with signals.raising():
        from ratlip_cli.cli import app

        app.main()


if __name__ == "__main__":
    main()
