"""Entry point of the ``ratlip`` command and of ``python -m ratlip_cli``."""

import gc
import signal
import sys

from ratlip_cli.cli import signals, waiting

_IMPORTED = 500_000
"""Objects; `import torch` and a model make 350,000."""


def main() -> None:
    """Run the command line, see `ratlip_cli.cli.app`. It obeys signals while it is imported and while Python ends."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    waiting.wait_briefly()
    _collect_later()
    with signals.raising():
        from ratlip_cli.cli import app

        try:
            app.main()
        finally:
            if "triton" not in sys.modules:  # whose bindings would tell of leaks; an optimiser imports it
                gc.freeze()  # Python then ends without looking through all that it holds


def _collect_later() -> None:
    """Let the garbage collector wait until the modules are imported, whose objects stay; from then on it is as ever."""
    usual = gc.get_threshold()

    def begin(phase: str, info: dict[str, int]) -> None:
        gc.callbacks.remove(begin)
        gc.set_threshold(*usual)

    gc.callbacks.append(begin)
    gc.set_threshold(_IMPORTED, *usual[1:])


if __name__ == "__main__":
    main()
