#!/bin/sh
# Build an image of docker/Dockerfile on Debian with buildah, without Docker and without a registry.
# The base image is made of Debian 12, whose Python is 3.11, by debootstrap. Call it as root:
#
#   apt-get install buildah debootstrap
#   sh docker/build-without-docker.sh server /var/tmp/voco-images
#
# TARGET is server, ingest or train. FOLDER gets the base system and the images, and can be removed
# afterwards. What follows goes to `buildah build`, such as
# --volume /etc/pip.conf:/etc/pip.conf:ro where pip needs an index of yours.
set -eu
if [ $# -lt 2 ]; then
    echo "build-without-docker: expected TARGET FOLDER, got $# arguments; see the head of the file" >&2
    exit 2
fi
target=$1
mkdir -p "$2/tmp"
folder=$(cd "$2" && pwd)
shift 2
cd "$(dirname "$0")/.."

export TMPDIR="$folder/tmp"
export BUILDAH_ISOLATION=chroot          # no daemon, and no namespaces that a sandbox may lack
base=localhost/voco-base:bookworm
run_buildah() {
    buildah --root "$folder/storage" --runroot "$folder/run" "$@"
}

if ! run_buildah images --quiet "$base" >/dev/null 2>&1; then
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$folder/debian"
    container=$(run_buildah from scratch)
    run_buildah add --quiet "$container" "$folder/debian" /
    run_buildah run "$container" -- ln -s python3 /usr/bin/python
    run_buildah commit --quiet --rm "$container" "$base"
    rm -rf "$folder/debian"
fi
run_buildah build --pull-never --build-arg "PYTHON_IMAGE=$base" --file docker/Dockerfile --target "$target" --tag "voco-$target:0.1.0" "$@" .
run_buildah images
