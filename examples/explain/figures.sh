#!/usr/bin/env bash
# Makes the figures of this folder: about ten minutes on two CPU cores.
#     examples/explain/figures.sh [MODEL [COUNT]]
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
model=${1:-ratlip-demo}
count=${2:-200}
if [ -e "$model" ]; then model=$(cd "$model" && pwd); fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export RATLIP_DATA="$work/data"  # not where other data are
cd "$work"

ratlip prepare demo --count $((10 * count))  # a tenth of them is the test split

ratlip gradcam "a red bird with black wings" --words --model "$model" --out words
ratlip gradcam "a red bird with black wings" -n 3 --target discriminator --model "$model" --out discriminator
ratlip gradcam --dataset demo --count "$count" --model "$model" --out segments
ratlip latent-viz --dataset demo --count "$count" --model "$model" --out pairs
ratlip latent-viz --caption "a young person with brown hair" --caption "an old person with brown hair" --model "$model" --out captions
ratlip latent-viz --from "a red bird in the snow" --to "a blue bird at sunset" --model "$model" --out interpolation
ratlip generate --interpolate "a red bird" "a blue bird" --loop --indices 7 --model "$model" --out strip.png
python - <<'END'
from ratlip_cli.data.sources.demo import rendered_image  # the first red bird of the test split

rendered_image("bird", "test", 0, 33, 64).image.save("photo.png")
END
ratlip edit photo.png --from "a red bird" --to "a blue bird" --model "$model"

cp strip.png "$here/interpolation_strip.png"
cp edited/0000_*_strip.png "$here/edit_strip.png"
cp words/0000_*wings.png "$here/gradcam_words.png"
cp words/0000_*wings.json "$here/gradcam_words.json"
cp discriminator/0000_*wings.png "$here/gradcam_discriminator.png"
cp segments/0000_*test.png "$here/gradcam_dataset.png"
cp segments/0000_*segments.png "$here/gradcam_segments.png"
python - segments/0000_*.json "$here/gradcam_segments.json" <<'END'
import json, sys  # without the numbers of each image
from pathlib import Path
content = json.loads(Path(sys.argv[1]).read_text())
del content["images"]
Path(sys.argv[2]).write_text(json.dumps(content, indent=2) + "\n")
END
cp pairs/0000_*test.png "$here/latent_pairs.png"
cp pairs/0000_*test.json "$here/latent_pairs.json"
cp captions/0000_*.png "$here/latent_captions.png"
cp captions/0000_*.json "$here/latent_captions.json"
cp interpolation/0000_*.png "$here/latent_interpolation.png"
cp interpolation/0000_*.gif "$here/latent_interpolation.gif"
cp interpolation/0000_*.json "$here/latent_interpolation.json"
