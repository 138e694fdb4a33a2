#!/bin/bash
# Score a bundle on aarch64 builds of both runtimes, under qemu-user: started by `make aarch64` as root, on Debian.
# Needs: apt-get install qemu-user-static debootstrap. Usage: tests/aarch64.sh PYTHON BUNDLE SCORED.npz FOLDER
# Both runtimes read /proc/cpuinfo and crash on an x86 one, so the emulated process sees an ARM one in its place.
set -euo pipefail
python=$1 bundle=$2 scored=$3 place=$(mkdir -p "$4" && realpath "$4")
here=$(dirname "$(realpath "$0")")
if [ ! -e "$place/root/.ready" ]; then
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm "$place/root" >"$place/log"
    for package in "$place"/root/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$place/root"; done
    touch "$place/root/.ready"
fi
if [ ! -e "$place/site/.ready" ]; then
    for name in numpy onnxruntime ai-edge-litert; do
        version=$("$python" -c "import importlib.metadata as m; print(m.version('$name'))")
        "$python" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp \
            --abi cp311 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
            --platform manylinux2014_aarch64 --dest "$place/wheels" "$name==$version"
    done
    for wheel in "$place"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$place/site"; done
    touch "$place/site/.ready"
fi
# Plain Python that the runtimes import is the same on every processor.
plain=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for name in flatbuffers packaging typing_extensions.py google tqdm backports; do
    [ ! -e "$plain/$name" ] || [ -e "$place/site/$name" ] || cp -r "$plain/$name" "$place/site/"
done
printf '%s\n' 'processor : 0' 'BogoMIPS : 50.00' 'Features : fp asimd aes pmull sha1 sha2 crc32 cpuid' \
    'CPU implementer : 0x41' 'CPU architecture: 8' 'CPU variant : 0x0' 'CPU part : 0xd03' 'CPU revision : 4' \
    >"$place/cpuinfo"
export PYTHONPATH="$place/site" OPENBLAS_NUM_THREADS=1
exec unshare -m bash -c 'mount --bind "$1/cpuinfo" /proc/cpuinfo; exec qemu-aarch64-static -L "$1/root" \
    "$1/root/usr/bin/python3.11" "$2" "$3" "$4"' _ "$place" "$here/old_runtimes.py" "$bundle" "$scored"
