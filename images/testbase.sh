#!/usr/bin/env bash
# Make base images out of Debian's packages, for machines that reach no registry of images: as root, with debootstrap.
#
#   images/testbase.sh [NAME]      NAME (default localhost/diminuendo-test-base) to run on, NAME-build to build on
set -euo pipefail
name=${1:-localhost/diminuendo-test-base}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
root=$folder/root
run() { "$@" >>"$folder/log" 2>&1 || { tail -5 "$folder/log" >&2; exit 1; }; }
image() {
  rm -rf "$root"/usr/share/{doc,man,locale,info} "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/*
  tar -C "$root" -c . | podman import --quiet - "$1"
}
run debootstrap --variant=minbase --include=python3,ca-certificates bookworm "$root"
image "$name"
# What building needs on top of it, as python:3.11 has it over python:3.11-slim.
cp /etc/resolv.conf "$root/etc/resolv.conf"
run chroot "$root" apt-get update
run chroot "$root" apt-get install -y --no-install-recommends python3-venv binutils
image "$name-build"
