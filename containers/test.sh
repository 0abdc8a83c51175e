#!/usr/bin/env bash
# Builds the image to build with on a base that is made here, and runs the demo in it; then what the Apptainer recipe does,
# on the same base. Needs root, buildah and debootstrap; takes nothing from a registry of images. To change:
#   ROOTFS   a folder with a root file system that has Python and venv, instead of a new one
#   MOUNTS   paths of this machine that pip needs inside: its configuration, certificates, wheels
#   TARGETS  cpu, or also gpu, with the flags for pip's torch in TORCH_FLAGS; a blank for the Apptainer recipe alone
#   SCRATCH  where to work; 5 GB a target
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in buildah debootstrap; do
    command -v "$tool" > /dev/null || { echo "no $tool here to test the images with (Debian: apt-get install $tool)" >&2; exit 2; }
done
((EUID == 0)) || { echo "only root makes the base of the images; run this as root" >&2; exit 2; }

work=$(mktemp -d -p "${SCRATCH:-/var/tmp}" stratacube.XXXXXX)
trap 'rm -rf "$work"' EXIT
export STORAGE=$work
places=(--storage-driver vfs --root "$work/storage" --runroot "$work/run")
mounts=()
for path in ${MOUNTS:-}; do
    mounts+=(--volume "$path:$path:ro")
done
in_container() {
    local container=$1
    shift
    buildah "${places[@]}" run --isolation chroot "${mounts[@]}" "$container" -- "$@"
}

base=${ROOTFS:-$work/base}
[[ -d $base ]] || debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "${SUITE:-bookworm}" "$base" > "$work/log"
container=$(buildah "${places[@]}" from scratch)
buildah "${places[@]}" add --quiet "$container" "$base" /
buildah "${places[@]}" commit --quiet --rm "$container" localhost/base > /dev/null

for target in ${TARGETS:-cpu}; do
    FLAGS="--isolation chroot --layers=false --build-arg BASE=localhost/base ${mounts[*]}" \
        containers/build.sh "$target" "$work/$target.tar"
    container=$(buildah "${places[@]}" from "localhost/stratacube-$target")
    [[ $(in_container "$container" id -u) == 1000 ]]
    in_container "$container" stratacube --version
    in_container "$container" stratacube demo --output-dir /tmp/demo
    in_container "$container" python -c 'import stratacube; print(dict(stratacube.open_tiles("/tmp/demo/random").sizes))'
    [[ $target == cpu ]] || in_container "$container" python -m training.pretrain --config cpu_smoke --print-config > /dev/null
    buildah "${places[@]}" rm "$container" > /dev/null
    if command -v apptainer > /dev/null; then
        apptainer build "$work/$target.sif" "oci-archive:$work/$target.tar"
        apptainer exec "$work/$target.sif" stratacube --version
    fi
    echo "the image $target builds, and runs the demo"
done

section() { # of the recipe, as a script
    awk -v wanted="%$1" '/^%/ { on = ($1 == wanted); next } on' containers/stratacube.def
}
container=$(buildah "${places[@]}" from localhost/base)
while read -r file place; do
    buildah "${places[@]}" copy --quiet "$container" "$file" "$place$([[ -d $file ]] && basename "$file")" > /dev/null
done < <(section files | awk 'NF')
in_container "$container" sh -c "$(section post | sed 's/{{ EXTRAS }}//')"
run="$(section environment)
$(section runscript)"
in_container "$container" sh -c "$run" runscript stratacube --version
in_container "$container" sh -c "$run" runscript python -m cube.build demo --archive-only /tmp/archive
echo "the Apptainer recipe installs, and runs"
