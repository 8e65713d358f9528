#!/bin/sh
# Install this distribution into a virtual environment of its own, for an image's build stage.
#
#   sh images/install.sh FOLDER EXTRAS
#
# Where /wheels holds wheels, they and nothing else are taken: no registry is asked. TORCH_INDEX: where torch comes from.
set -eu
folder=$1 extras=$2
offline=""
if ls /wheels/*.whl >/dev/null 2>&1; then offline="--no-index --find-links /wheels"; fi
python3.11 -m venv "$folder"
install() { "$folder/bin/python" -m pip install --quiet --no-cache-dir --disable-pip-version-check --no-compile -c constraints.txt "$@"; }
case ",$extras," in
  *,cluster,* | *,engine,*)
    # torch first and alone: a plain resolve could take a build of several GB for a GPU that is not there.
    # shellcheck disable=SC2086
    install ${offline:-${TORCH_INDEX:+--index-url $TORCH_INDEX}} torch==2.13.0
    ;;
esac
# shellcheck disable=SC2086
install $offline ".[$extras]"
# What runs needs no installer; bytecode is made once here, for nobody can write it later.
"$folder/bin/python" -m pip uninstall --quiet --yes --disable-pip-version-check pip setuptools
"$folder/bin/python" images/trim.py "$folder"
"$folder/bin/python" -m compileall -q -j 0 "$folder" >/dev/null || true # some packages carry templates that are no Python
"$folder/bin/python" -c "import diminuendo.client"
