#!/bin/sh
# Packs the built planaria into one tar that runs where it is unpacked, on x86-64 Linux with glibc 2.36 or newer:
# bin/planaria and, in lib/planaria, the library for GPUs and every other one that they load, but for glibc's own and
# the NVIDIA driver's. Without a driver it computes on the CPU.
#   deploy/bundle.sh [--build build/release] [--out build/planaria-bundle.tar.gz] [--without-gpu]
set -eu

build=build/release
out=build/planaria-bundle.tar.gz
gpu=1
usage() {
  sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
  exit 2
}
while [ $# -gt 0 ]; do
  case "$1" in
    --build) build=${2:?}; shift 2 ;;
    --out) out=${2:?}; shift 2 ;;
    --without-gpu) gpu=""; shift ;;
    *) usage ;;
  esac
done

plugin=libplanaria_cuda.so
if [ ! -x "$build/planaria" ]; then
  echo "bundle: there is no $build/planaria: build it first (deploy/quickstart.sh does)" >&2
  exit 1
fi
if [ -n "$gpu" ] && [ ! -f "$build/$plugin" ]; then
  echo "bundle: there is no $build/$plugin: it is built where CUDA 13 is installed; --without-gpu packs the rest" >&2
  exit 1
fi
for tool in patchelf ldd gzip; do
  if ! command -v "$tool" >/dev/null; then
    echo "bundle: $tool is missing: deploy/install-packages.sh --dev installs it" >&2
    exit 1
  fi
done

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
root=$stage/planaria
libraries=$root/lib/planaria
mkdir -p "$root/bin" "$libraries/ucx"
cp "$build/planaria" "$root/bin/"
strip "$root/bin/planaria"
modules=$(dirname "$(ldd "$build/planaria" | awk '$1 ~ /^libucs\.so/ {print $3}')")/ucx
# Ways to reach a peer that UCX loads when it looks for them; those for InfiniBand need its own drivers and libraries.
for module in "$modules"/libuct_cma.so.0; do
  if [ -f "$module" ]; then cp -L "$module" "$libraries/ucx/"; fi
done
if [ -n "$gpu" ]; then
  cp "$build/$plugin" "$libraries/"
  strip "$libraries/$plugin"
fi

set -- "$build/planaria" "$libraries"/ucx/*.so*
if [ -n "$gpu" ]; then set -- "$@" "$build/$plugin"; fi
ldd "$@" >"$stage/needed"
if grep 'not found' "$stage/needed" >&2; then
  echo "bundle: libraries are missing here: they would be missing in the bundle" >&2
  exit 1
fi
# glibc's own are the target's: the loader and they are of one version.
for library in $(awk '/=> \// {print $3}' "$stage/needed" | sort -u |
  grep -Ev '/(ld-linux-x86-64|libc|libm|libmvec|libdl|libpthread|librt|libresolv|libanl|libnss_[a-z]*)\.so'); do
  cp -L "$library" "$libraries/"
done

# As RPATH, which libraries inherit from who loads them.
patchelf --force-rpath --set-rpath '$ORIGIN/../lib/planaria' "$root/bin/planaria"
if [ -n "$gpu" ]; then patchelf --force-rpath --set-rpath '$ORIGIN' "$libraries/$plugin"; fi
cp -r examples LICENSE "$root/"
if "$root/bin/planaria" --version >/dev/null; then :; else
  echo "bundle: what was packed doesn't start here" >&2
  exit 1
fi
mkdir -p "$(dirname "$out")"
tar -C "$stage" --owner=0 --group=0 --sort=name -czf "$out.part" planaria
mv "$out.part" "$out"
echo "packed $(du -h "$out" | cut -f1) in $out: unpack it anywhere and run planaria/bin/planaria"
