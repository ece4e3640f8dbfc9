#!/usr/bin/env bash
# Makes all that is bundled as `ratlip-demo`, from nothing. A training that was stopped goes on; one that is done, rendered
# images and the classifier are left alone. What bundle, scores and figures write, they write anew.
#     examples/demo/make.sh                  # every step, one after another: about a night on one core
#     examples/demo/make.sh clip generator   # some of them; what needs nothing of another can run beside it, a core each
#     DEVICES=2 examples/demo/make.sh generator   # two processes: faster on two cores, and other last bits
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD OMP_NUM_THREADS=1  # the last bits of weights depend on the number of threads
here=examples/demo
CLIP=${CLIP:-runs/demo-clip} SECOND_CLIP=${SECOND_CLIP:-runs/demo-clip-2}
RUN=${RUN:-runs/demo-ratlip} SECOND_RUN=${SECOND_RUN:-runs/demo-ratlip-seed1}
STEPS=(clip second-clip classifier generator second-seed bundle scores figures)

train() {  # SEED FOLDER
  python $here/history.py "$CLIP"
  data
  local settings=(--dataset demo --config $here/generator.toml --clip "$CLIP/clip" --eval-features clip --seed "$1")
  python -m ratlip_cli train "${settings[@]}" ${DEVICES:+--devices "$DEVICES"} --out "$2" --resume auto
}
data() {
  local found=${RATLIP_DATA:-data}/demo
  if [ -f "$found/dataset.json" ] && ! grep -q '"count": 20000,' "$found/dataset.json"; then
    echo "$found is not the set of 20,000 images: set RATLIP_DATA to another folder" >&2
    exit 2
  fi
  python -m ratlip_cli prepare demo --count 20000
}
clip() { python $here/train_clip.py --out "$CLIP" --minutes 1000 && python $here/check_clip.py "$CLIP/clip"; }
second-clip() {
  python $here/train_clip.py --out "$SECOND_CLIP" --minutes 1000 --seed 7 --vision-width 96 --text-width 160 --steps 6000
  python $here/check_clip.py "$SECOND_CLIP/clip"
}
classifier() { python $here/classifier.py; }
generator() { train 0 "$RUN"; }
second-seed() { train 1 "$SECOND_RUN"; }
bundle() {
  local words=("$RUN" --clip "$CLIP")
  if [ -d "$SECOND_CLIP" ]; then words+=(--second-clip "$SECOND_CLIP"); fi
  python $here/bundle.py "${words[@]}"
}
scores() {
  local models=(ratlip-demo)
  if [ -d "$SECOND_RUN/model" ]; then models+=("$SECOND_RUN"); fi
  python $here/score.py "${models[@]}" --json $here/scores.json
  python $here/check_scores.py --page docs/bundled-model.md || [ $? = 3 ]
}
figures() {
  generate() { python -m ratlip_cli generate --model ratlip-demo --quiet "$@"; }
  rm -rf runs/demo-figures
  for seed in 0 1 2 3 4 5 6 7; do generate --prompts $here/prompts.txt -n 8 --seed $seed --out runs/demo-figures/$seed; done
  generate --prompts $here/asked.txt -n 8 --out runs/demo-figures/asked
  generate "a red bird with black wings" -n 8 --out runs/demo-figures/red
  cp runs/demo-figures/0/*grid*.png examples/demo_grid.png
  cp runs/demo-figures/red/*grid*.png examples/red_birds.png
  examples/explain/figures.sh ratlip-demo 80
}

if [ $# = 0 ]; then set -- "${STEPS[@]}"; fi
if [ "$1" = --help ] || [ "$1" = -h ]; then
  echo "examples/demo/make.sh [STEP ...]: these steps, one after another; all if none is named: ${STEPS[*]}"
  exit
fi
for step in "$@"; do  # all of them before the first, which may take hours
  if [[ $step == *" "* || " ${STEPS[*]} " != *" $step "* ]]; then
    echo "unknown step $step; the steps are: ${STEPS[*]}" >&2
    exit 2
  fi
done
for step in "$@"; do $step; done
