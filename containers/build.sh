#!/usr/bin/env bash
# Builds a target of the Containerfile and writes it as an OCI archive: containers/build.sh cpu dist/stratacube-cpu.tar
# STORAGE is a folder for buildah to work in, TORCH_FLAGS what pip takes torch by, FLAGS more flags of "buildah build".
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1 archive=$2
command -v buildah > /dev/null || { echo "no buildah here to build the image with (Debian: apt-get install buildah)" >&2; exit 2; }
places=()
[[ -z ${STORAGE:-} ]] || places=(--storage-driver vfs --root "$STORAGE/storage" --runroot "$STORAGE/run")
read -ra flags <<< "${FLAGS:-}"
buildah "${places[@]}" build --target "$target" --build-arg "TORCH_FLAGS=${TORCH_FLAGS:-}" \
    "${flags[@]}" -f containers/Containerfile -t "localhost/stratacube-$target" .
mkdir -p "$(dirname "$archive")"
rm -f "$archive"
buildah "${places[@]}" push "localhost/stratacube-$target" "oci-archive:$archive"
echo "written: $archive"
