"""Generate images with torch, numpy and Pillow alone: python example.py "a red bird with black wings" 4"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizer import Tokenizer

folder = Path(__file__).parent
prompt, count = sys.argv[1], int(sys.argv[2])
settings = json.loads((folder / "export.json").read_text())
merges = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
tokens = Tokenizer(merges, settings["context_length"])([prompt])
encoder, generator = (torch.export.load(folder / name).module() for name in ("text_encoder.pt2", "generator.pt2"))
text = encoder(torch.from_numpy(tokens))
noise = torch.randn(count, settings["noise_dim"], generator=torch.Generator().manual_seed(0))
images = generator(noise, text.expand(count, *text.shape[1:])).detach().numpy()
for number, image in enumerate(images):
    pixels = ((image.transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8)
    Image.fromarray(pixels).save(f"{number}.png")
