#!/usr/bin/env bash
# Installs the Debian packages that the tests and benchmarks use, if they are missing. Usage: debian-packages.sh [PACKAGE...]
set -euo pipefail
packages=("$@")
if [ ${#packages[@]} -eq 0 ]; then
  packages=(fuse3 libfuse3-dev pkg-config gcc libc6-dev runc docker-registry redis-server umoci skopeo attr acl isal pigz zstd zopfli
    libdeflate-tools tabix erofs-utils libarchive-tools busybox-static psmisc openssl iproute2
    crun fuse-overlayfs systemd containernetworking-plugins iptables passt git python3-minimal perl ruby nginx-light postgresql-15
    chromium prometheus bash-completion zsh fish man-db)
fi
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing+=("$p")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "clip: these Debian packages are missing and installing them needs root: ${missing[*]}" >&2
  exit 1
fi
echo "clip: installing Debian packages: ${missing[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
# Daemons must not start by themselves: tests start their own, on free ports.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e $policy ]; then printf '#!/bin/sh\nexit 101\n' > $policy; chmod +x $policy; made_policy=1; fi
trap '[ -z "$made_policy" ] || rm -f $policy' EXIT
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
  { apt-get update -qq >&2 && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
