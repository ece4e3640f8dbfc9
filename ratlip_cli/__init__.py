"""ratlip: text-to-image GANs on frozen CLIP (RATLIP, GALIP).

The command line lives in :mod:`ratlip_cli.cli`; everything it does can be called from Python.
"""

__version__ = "0.1.0"
