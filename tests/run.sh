#!/bin/sh
# Installs, builds and runs all tests.
#   tests/run.sh                release build, then a short run of the fuzz targets
#   tests/run.sh --asan         with AddressSanitizer and UBSan
#   tests/run.sh --tsan         with ThreadSanitizer
#   tests/run.sh [..] --no-install      use the packages that are there
#   tests/run.sh [..] -- ARGUMENTS      handed to ctest, e.g. -R Codec
set -eu
cd "$(dirname "$0")/.."

preset=release
install=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --asan) preset=asan ;;
    --tsan) preset=tsan ;;
    --no-install) install=no ;;
    --)
      shift
      break
      ;;
    *)
      sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
      exit 2
      ;;
  esac
  shift
done

fuzz_seconds=16

# Builds the fuzz targets and runs each for its part of fuzz_seconds.
fuzz() {
  if ! command -v clang++ >/dev/null; then
    echo "run.sh: no clang, so the fuzz targets are not run"
    return 0
  fi
  cmake --preset fuzz >/dev/null
  cmake --build --preset fuzz
  set -- build/fuzz/fuzzers/*_fuzz
  each=$((fuzz_seconds / $#))
  [ "$each" -ge 1 ] || each=1
  for target in "$@"; do
    name=$(basename "$target")
    found="build/fuzz/found/$name"
    mkdir -p "$found/corpus"
    set -- "$found/corpus"
    [ ! -d "tests/fuzz/corpus/$name" ] || set -- "$@" "tests/fuzz/corpus/$name"
    if ! "$target" -max_total_time="$each" -timeout=5 -rss_limit_mb=1024 -artifact_prefix="$found/" "$@" \
      >"$found/log" 2>&1; then
      tail -n 40 "$found/log"
      echo "run.sh: $name failed; its input lies in $found"
      return 1
    fi
    echo "$name: $(sed -n 's/^Done //p' "$found/log")"
  done
}

if [ "$install" = yes ]; then deploy/install-packages.sh; fi
cmake --preset "$preset" -DPLANARIA_BUILD_TESTS=ON -DPLANARIA_UNITY=ON >/dev/null
if [ "$preset" = release ]; then
  cmake --build --preset "$preset" --target all headers_alone
else
  cmake --build --preset "$preset"
fi

log="build/$preset/tests.log"
rm -f "$log.failed"
status=0
{ ctest --test-dir "build/$preset" -j2 --output-on-failure "$@" || echo failed >"$log.failed"; } 2>&1 | tee "$log"
if [ -e "$log.failed" ]; then
  rm "$log.failed"
  status=1
fi
if [ "$preset" = release ]; then fuzz || status=1; fi
# ctest's closing lines, and no others, end the output.
sed -n '/% tests passed/,$p' "$log"
exit "$status"
