#!/usr/bin/env bash
# Builds what a real node runs, from Go modules: kubelet, containerd with its shim and ctr, CNI plugins; kube-scheduler; and
# agnhost, Kubernetes' own test image (the pods' server, and their pause container), as a program and as an image,
# docker.io/library/agnhost:lab in agnhost.tar. runc is Debian's.
# Progress goes to standard error; the last line on standard output is the directory.
#
#   build.sh           build what is missing, print the directory
#   build.sh --where   print the directory only; fails when it is not complete
#
# The directory's name is a hash of what decides its content, so it is complete or absent and never stale.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

containerd=github.com/containerd/containerd/v2
plugins=github.com/containernetworking/plugins/plugins
programs=(
  k8s.io/kubernetes/cmd/kubelet
  k8s.io/kubernetes/cmd/kube-scheduler
  k8s.io/kubernetes/test/images/agnhost
  $containerd/cmd/containerd
  $containerd/cmd/containerd-shim-runc-v2
  $containerd/cmd/ctr
  $plugins/main/ptp
  $plugins/main/loopback
  $plugins/ipam/host-local
)

key=$(cat go.mod go.sum build.sh ../../release/image | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/herald/kubelet
target=$root/$key

if [[ -f $target/complete ]]; then
  echo "$target"
  exit 0
fi
if [[ ${1:-} == --where ]]; then
  echo "the programs of a node are not built yet: run e2e/kubelet/build.sh" >&2
  exit 1
fi

mkdir -p "$root"
# One build at a time; whoever waited finds it complete.
exec 9>"$root/lock"
if ! flock -n 9; then
  echo "another build is running, waiting for it" >&2
  flock 9
  if [[ -f $target/complete ]]; then
    echo "$target"
    exit 0
  fi
fi

work=$(mktemp -d "$root/.building.XXXXXX")
trap 'rm -rf "$work"' EXIT

version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
major=${version#v}
major=${major%%.*}
minor=${version#v*.}
minor=${minor%%.*}

# A kubelet tells its version in its Node's status.
stamps="-s -w -X $containerd/version.Version=$(go list -m -f '{{.Version}}' "$containerd")"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
  stamps+=" -X $package.gitTreeState=clean"
done

begin=$SECONDS
elapsed() { printf '%3d:%02d' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

echo "$(elapsed) the programs of a node of Kubernetes $version: a first build takes about five minutes" >&2
count=0
for program in "${programs[@]}"; do
  count=$((count + 1))
  name=${program##*/}
  echo "$(elapsed) $count of ${#programs[@]}: $name" >&2
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags "no_btrfs no_zfs no_devmapper no_aufs" -ldflags "$stamps" \
    -o "$work/$name" "$program"
done

COMMAND=pause ../../release/image "$work/agnhost.tar" docker.io/library/agnhost:lab "$(go env GOARCH)=$work/agnhost" >/dev/null

touch "$work/complete"
chmod 0755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
echo "$(elapsed) done" >&2
echo "$target"
