"""Entry point of the ``ratlip`` command and of ``python -m ratlip_cli``."""

from ratlip_cli.cli.app import main

if __name__ == "__main__":
    main()
