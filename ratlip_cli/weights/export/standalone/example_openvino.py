"""Generate images with OpenVINO, numpy and Pillow alone: python example.py "a red bird with black wings" 4"""

import json
import sys
from pathlib import Path

import numpy as np
import openvino
from PIL import Image
from tokenizer import Tokenizer

folder = Path(__file__).parent
prompt, count = sys.argv[1], int(sys.argv[2])
settings = json.loads((folder / "export.json").read_text())
merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
tokens = Tokenizer(merges, settings["context_length"])([prompt])
exact = {"INFERENCE_PRECISION_HINT": "f32"}
networks = ("text_encoder.xml", "generator.xml")
encoder, generator = (openvino.Core().compile_model(folder / name, "CPU", exact) for name in networks)
text = encoder(tokens)[0]
noise = np.random.default_rng(0).standard_normal((count, settings["noise_dim"]), dtype=np.float32)
images = generator([noise, text.repeat(count, axis=0)])[0]
for number, image in enumerate(images):
    pixels = ((image.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(pixels).save(f"{number}.png")
