#!/usr/bin/env bash
# Makes all that is bundled as `ratlip-demo`, from nothing. What was stopped goes on; what is made already is left alone.
#     examples/demo/make.sh                  # every step, one after another: about a night on one core
#     examples/demo/make.sh clip generator   # some of them; what needs nothing of another can run beside it, a core each
set -euo pipefail
cd "$(dirname "$0")/../.."
export PYTHONPATH=$PWD OMP_NUM_THREADS=1  # the last bits of weights depend on the number of threads
here=examples/demo
CLIP=${CLIP:-runs/demo-clip} SECOND_CLIP=${SECOND_CLIP:-runs/demo-clip-2}
RUN=${RUN:-runs/demo-ratlip} SECOND_RUN=${SECOND_RUN:-runs/demo-ratlip-seed1}

train() {  # SEED FOLDER
  python -m ratlip_cli train --dataset demo --clip "$CLIP/clip" --eval-features clip --seed "$1" --out "$2" --resume auto
}
of() { if [ -d "$1" ]; then echo "${@:2}"; fi; }  # the words where the folder is there

data() { [ -d data/demo ] || python -m ratlip_cli prepare demo --count 20000; }
clip() { python $here/train_clip.py --out "$CLIP" --minutes 1000 && python $here/check_clip.py "$CLIP/clip"; }
second-clip() {
  python $here/train_clip.py --out "$SECOND_CLIP" --minutes 1000 --seed 7 --vision-width 96 --text-width 160 --steps 6000
  python $here/check_clip.py "$SECOND_CLIP/clip"
}
classifier() { python $here/classifier.py; }
generator() { data && train 0 "$RUN"; }
second-seed() { data && train 1 "$SECOND_RUN"; }
bundle() { python $here/bundle.py "$RUN" --clip "$CLIP" $(of "$SECOND_CLIP" --second-clip "$SECOND_CLIP"); }
scores() {
  python $here/score.py ratlip-demo $(of "$SECOND_RUN/model" "$SECOND_RUN") --json $here/scores.json
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

for step in "${@:-clip second-clip classifier generator second-seed bundle scores figures}"; do
  for one in $step; do
    case " data clip second-clip classifier generator second-seed bundle scores figures " in
      *" $one "*) $one ;;
      *) echo "unknown step $one" >&2; exit 2 ;;
    esac
  done
done
