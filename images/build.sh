#!/usr/bin/env bash
# Build the images control and engine with podman or docker, whichever is there.
#
#   images/build.sh [control|engine]...      both when none is named
#
# Environment:
#   IMAGE_BASE, IMAGE_BUILD_BASE   base images of what runs and of what builds it; default: those of the Containerfiles
#   IMAGE_PREFIX     repository in front of `diminuendo-control` and `diminuendo-engine`; default localhost
#   IMAGE_TAG        default: the distribution's version
#   IMAGE_WHEELS     1: packages are fetched here, with this machine's pip, and the build asks no registry and needs no
#                    network; this machine must then be like the image (Linux, same processor, Python 3.11)
#   TORCH_INDEX      where the engine's torch comes from, e.g. https://download.pytorch.org/whl/cu130; default: a CPU build
#   CONTAINER        podman or docker; CONTAINER_FLAGS, BUILD_FLAGS: more flags of it, and of its build
set -euo pipefail
cd "$(dirname "$0")/.."
tool=${CONTAINER:-$(command -v podman || command -v docker || true)}
[ -n "$tool" ] || { echo "neither podman nor docker is here; install one, e.g. apt-get install podman" >&2; exit 2; }
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml | head -1)
[ $# -gt 0 ] || set -- control engine

context=.build/images
rm -rf "$context"
mkdir -p "$context/wheels"
cp -r pyproject.toml constraints.txt README.md protos engine services clients images "$context/"
find "$context" -depth -name __pycache__ -type d -exec rm -rf {} +

for name in "$@"; do
  file="images/$name/Containerfile"
  [ -f "$file" ] || { echo "there is no image $name; name control or engine" >&2; exit 2; }
  extras=$(sed -n 's/^ARG EXTRAS=//p' "$file")
  flags=()
  if [ "${IMAGE_WHEELS:-}" = 1 ]; then
    rm -rf "$context/wheels" && mkdir "$context/wheels"
    torch=()
    [ "$name" = engine ] && torch=(torch==2.13.0)
    .venv/bin/pip wheel --quiet --disable-pip-version-check -c constraints.txt -w "$context/wheels" \
      "${torch[@]}" "$(sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml)" ".[$extras]"
    rm -f "$context"/wheels/diminuendo-*.whl # built from the sources in the image
    flags+=(--network none)
  fi
  [ -n "${IMAGE_BASE:-}" ] && flags+=(--build-arg "BASE=$IMAGE_BASE" --build-arg "BUILD_BASE=${IMAGE_BUILD_BASE:-$IMAGE_BASE}")
  [ -n "${TORCH_INDEX:-}" ] && flags+=(--build-arg "TORCH_INDEX=$TORCH_INDEX")
  image="${IMAGE_PREFIX:-localhost}/diminuendo-$name:${IMAGE_TAG:-$version}"
  # shellcheck disable=SC2086
  "$tool" ${CONTAINER_FLAGS:-} build ${BUILD_FLAGS:-} "${flags[@]}" --build-arg "VERSION=$version" -t "$image" -f "$file" "$context"
  echo "image: $image"
done
