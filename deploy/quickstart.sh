#!/bin/sh
# From a fresh Debian 12 to a model that was trained while its workers were killed: installs, builds, trains with
# faults, trains without, compares the two results bit for bit, and lets the model write.
#   deploy/quickstart.sh                  as root or with sudo
set -eu
cd "$(dirname "$0")/.."

job=examples/quickstart.toml
scenario=chaos/scenarios/quickstart.toml
out=runs/quickstart
least_words=40  # percent of the sample's words of three letters or more that stand in the dictionary

say() { printf '\n== %s\n' "$*"; }

# The value of a string or number in the JSON object on the last line of a file.
field() { tail -n 1 "$2" | sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p"; }

# planaria run draws its live view on standard error; its last line of standard output is the summary.
train() {
  directory=$1
  shift
  mkdir -p "$directory"
  build/release/planaria run "$job" --out "$directory" --json "$@" >"$directory/summary.json"
  echo "validation loss $(field final_val_loss "$directory/summary.json") nats a byte," \
    "$(field wall_s "$directory/summary.json") s, weights $(field weights_hash "$directory/summary.json")"
}

say "packages"
deploy/install-packages.sh --minimal
say "build"
cmake --preset release -DPLANARIA_BUILD_TESTS=OFF >/dev/null
cmake --build --preset release --target planaria

rm -rf "$out" "$out-undisturbed"
say "train with three workers: one is killed, one is stopped and thawed, one joins"
train "$out" --scenario "$scenario"
say "train the same job undisturbed"
train "$out-undisturbed"

disturbed=$(field weights_hash "$out/summary.json")
undisturbed=$(field weights_hash "$out-undisturbed/summary.json")
say "the two results"
echo "with faults  $disturbed"
echo "without      $undisturbed"
if [ -z "$disturbed" ] || [ "$disturbed" != "$undisturbed" ]; then
  echo "quickstart: the weights differ; this is a bug, please report it with both directories under runs/" >&2
  exit 1
fi
echo "equal, bit for bit"

say "what the model writes"
build/release/planaria generate --from "$out" --prompt "The " --tokens 2000 --seed 1 >"$out/sample.txt"
head -c 600 "$out/sample.txt"
echo
share=$(tr -cs 'A-Za-z' '\n' <"$out/sample.txt" | tr 'A-Z' 'a-z' | awk '
  NR == FNR { dictionary[tolower($0)] = 1; next }
  length($0) >= 3 { words++; if ($0 in dictionary) known++ }
  END { print words ? int(100 * known / words) : 0 }' /usr/share/dict/words -)
say "$share % of its words of three letters or more stand in the dictionary (at least $least_words expected)"
[ "$share" -ge "$least_words" ]
