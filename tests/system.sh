#!/usr/bin/env bash
# Installs what the tests need from Debian where that is possible; says what is missing where it is not.
set -euo pipefail
declare -A needs=([sshd]=openssh-server [chromium]=chromium [ip]=iproute2)
# tests/boards: ARM64 systems under QEMU
needs+=([mmdebstrap]=mmdebstrap [qemu-system-aarch64]=qemu-system-arm [qemu-img]=qemu-utils [fdtput]=device-tree-compiler)
needs+=([modprobe]=kmod [cpio]=cpio [mke2fs]=e2fsprogs [xz]=xz-utils)
packages=()
for program in "${!needs[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || packages+=("${needs[$program]}")
done
[ -d /usr/share/datasets/fashion-mnist ] || packages+=(dataset-fashion-mnist)
[ ${#packages[@]} -eq 0 ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
else
  echo "not installed: ${packages[*]}; the tests that need them are skipped by name" >&2
fi
