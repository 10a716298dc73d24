#!/usr/bin/env bash
# Builds the system that all emulated boards share: ARM64 Debian of this machine's own suite, with OpenSSH's server and Python.
#
#     base.sh FOLDER        makes FOLDER/vmlinuz, initrd.cpio.gz and root.qcow2 (ext4)
#
# Packages come from where this machine's apt gets its own. They are unpacked, not configured: nothing of the foreign architecture runs
# here, so neither emulation nor a loop mount is needed to build. What their scripts would have done and the boards need is done below.
# libstdc++6 stands on every system for boards, and wheels of runtimes count on it.
# There is no systemd: init is busybox's, and a board answers SSH some seconds after its power comes back.
# Needs root (owners of files), and the programs that tests/system.sh installs.
set -euo pipefail
out=$(mkdir -p "$1" && cd "$1" && pwd)
work=$(mktemp -d "$out/work.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root init=$work/init

# ---- the packages
suite=$(. /etc/os-release; echo "$VERSION_CODENAME")
apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Origin: Debian' 'Component: main' 'Created-By: Packages' |
  grep -E " $suite(-updates|-security)? main$" | sort -u >"$work/sources.list" || { echo "apt here has no Debian to take boards from" >&2; exit 1; }
mmdebstrap --quiet --mode=root --architectures=arm64 --variant=extract --hook-dir=/usr/share/mmdebstrap/hooks/merged-usr \
  --include='?essential' --include=openssh-server,openssh-sftp-server,python3,libstdc++6,iproute2,procps,busybox-static,linux-image-cloud-arm64 \
  "$suite" "$root" "$work/sources.list"

# ---- users: root, and `board`, who signs in by key
cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
echo 'sshd:x:101:65534::/run/sshd:/usr/sbin/nologin' >>"$root/etc/passwd"
echo 'board:x:1000:1000::/home/board:/bin/bash' >>"$root/etc/passwd"
echo 'board:x:1000:' >>"$root/etc/group"
sed 's/^\([^:]*\):.*/\1:*:19000:0:99999:7:::/' "$root/etc/passwd" >"$root/etc/shadow"
chmod 600 "$root/etc/shadow"
printf 'passwd: files\ngroup: files\nshadow: files\nhosts: files\n' >"$root/etc/nsswitch.conf"
install -d -o 1000 -g 1000 "$root/home/board"
install -d -m 1777 "$root/tmp" "$root/var/tmp"
ln -sf mawk "$root/usr/bin/awk"
cat >"$root/etc/ssh/sshd_config" <<'CONFIG'
HostKey /etc/ssh/ssh_host_ed25519_key
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
Subsystem sftp /usr/lib/openssh/sftp-server
CONFIG

# ---- start: as little as a real board needs to answer SSH
cat >"$root/etc/inittab" <<'INITTAB'
::sysinit:/etc/start
::respawn:/usr/sbin/sshd -D -e
INITTAB
cat >"$root/etc/start" <<'START'
#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin
mount() { busybox mount "$@"; }
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/sshd
hostname "$(cat /etc/hostname)"
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
START
chmod 755 "$root/etc/start"
ln -sf ../bin/busybox "$root/sbin/init"

# ---- the kernel, and an initramfs that finds the disk and puts the board's own files on it when it starts for the first time
kernel=$(basename "$root"/lib/modules/*)
cp "$root/boot/vmlinuz-$kernel" "$out/vmlinuz"
mkdir -p "$init"/{bin,proc,sys,dev,disk,modules}
cp "$root/bin/busybox" "$init/bin/"
depmod -b "$root" "$kernel"
for module in virtio_pci virtio_blk ext4 crc32c_generic virtio_net virtio_rng; do
  modprobe -d "$root" -S "$kernel" --show-depends "$module" 2>/dev/null | awk '$1 == "insmod" {print $2}'
done | awk '!seen[$0]++' >"$work/modules" || true
number=100
while read -r module; do
  number=$((number + 1))
  case $module in
    *.xz) xz -dc "$module" >"$init/modules/$number-$(basename "$module" .xz)" ;;
    *) cp "$module" "$init/modules/$number-$(basename "$module")" ;;
  esac
done <"$work/modules"
cat >"$init/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
for module in /modules/*; do [ -e "$module" ] && $b insmod "$module"; done
until [ -b /dev/vda ]; do $b sleep 0.05; done
$b mount -t ext4 -o noatime /dev/vda /disk || { echo "the disk cannot be mounted"; $b poweroff -f; }
[ -e /disk/etc/ssh/ssh_host_ed25519_key ] || { $b cp -a /board/. /disk/; $b sync; }
for each in proc sys dev; do $b mount --move /$each /disk/$each; done
exec $b switch_root /disk /sbin/init
INIT
chmod 755 "$init/init"
(cd "$init" && find . | cpio --quiet -o -H newc) | gzip -1 >"$out/initrd.cpio.gz"

# ---- the disk
rm -rf "$root"/boot/* "$root"/usr/share/{doc,man,locale,info} "$root"/var/cache/apt "$root"/var/lib/apt/lists "$root/lib/modules" "$root/usr/lib/modules"
mke2fs -q -t ext4 -d "$root" -E lazy_itable_init=1,lazy_journal_init=1 "$work/root.img" 3G
qemu-img convert -O qcow2 "$work/root.img" "$work/root.qcow2"
mv "$work/root.qcow2" "$out/root.qcow2" # last: what is not there has to be built
