#!/bin/sh
# Installs what Planaria needs on Debian 12. Safe to run again: with everything there it only looks and leaves.
#   deploy/install-packages.sh             build, run and test
#   deploy/install-packages.sh --minimal   build and run
#   deploy/install-packages.sh --dev       and format, lint, measure against PyTorch, try a clean root
set -eu

compiler="build-essential cmake ninja-build pkg-config"
libraries="libcaf-dev libssl-dev libucx-dev librocksdb-dev libzmq3-dev libprotobuf-dev protobuf-compiler
  libtomlplusplus-dev libcli11-dev libspdlog-dev libfmt-dev nlohmann-json3-dev libxxhash-dev libzstd-dev libisal-dev
  libboost-dev"
# The text that quickstart trains on, and the words that its sample is held against.
text="perl perl-doc wamerican"
testing="libgtest-dev libgmock-dev ccache mold clang libclang-rt-dev"
development="clang-format clang-tidy libbenchmark-dev python3-torch libopenblas0-pthread debootstrap patchelf"

packages="$compiler $libraries $text"
case "${1:-}" in
  --minimal) ;;
  "") packages="$packages $testing" ;;
  --dev) packages="$packages $testing $development" ;;
  *)
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

# shellcheck disable=SC2086  # lists of words, here and below
installed=$(dpkg-query -W -f '${Package} ${db:Status-Abbrev}\n' $packages 2>/dev/null | sed -n 's/ ii *$//p')
missing=""
for package in $packages; do
  case "
$installed
" in
    *"
$package
"*) ;;
    *) missing="$missing $package" ;;
  esac
done
if [ -z "$missing" ]; then
  exit 0
fi

if ! grep -qs '^VERSION_ID="12"' /etc/os-release; then
  echo "install-packages: made for Debian 12; on this system packages may be missing or of other versions" >&2
fi
root=""
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install-packages: these packages are missing:$missing" >&2
    echo "install-packages: run it as root, or install sudo" >&2
    exit 1
  fi
  root="sudo"
fi
echo "install-packages: installing$missing"
$root apt-get update -q
# shellcheck disable=SC2086
$root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
