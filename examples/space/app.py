"""The playground of `ratlip play` as a Hugging Face Space.

The Space's variable RATLIP_MODELS names the models, with spaces between them, as `--model` takes them; left out, it is
the bundled one.
"""

import os
import time

from ratlip_cli import load_model
from ratlip_cli.web.playground import served

names = os.environ.get("RATLIP_MODELS", "ratlip-demo").split()
models = [load_model(name, "auto") for name in names]
with served(models, host="0.0.0.0", port=int(os.environ.get("GRADIO_SERVER_PORT", "7860"))) as address:
    print(address, flush=True)
    while True:
        time.sleep(3600)
