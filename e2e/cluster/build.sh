#!/usr/bin/env bash
# Builds the control plane of the lab from Go modules: kube-apiserver, kube-controller-manager, kube-proxy,
# kubectl and etcd. Progress goes to standard error; the last line on standard output is the directory.
#
#   build.sh           build what is missing, print the directory
#   build.sh --where   print the directory only; fails when it is not complete
#
# The directory's name is a hash of what decides its content, so it is complete or absent and never stale.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

programs=(
  go.etcd.io/etcd/server/v3
  k8s.io/kubernetes/cmd/kube-apiserver
  k8s.io/kubernetes/cmd/kube-controller-manager
  k8s.io/kubernetes/cmd/kubectl
  k8s.io/kubernetes/cmd/kube-proxy
)

key=$(cat go.mod go.sum build.sh | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/herald/cluster
target=$root/$key

if [[ -f $target/complete ]]; then
  echo "$target"
  exit 0
fi
if [[ ${1:-} == --where ]]; then
  echo "the control plane is not built yet: run e2e/cluster/build.sh" >&2
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

# Without these stamps the server's /version cannot be parsed by clients.
stamps="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
  stamps+=" -X $package.gitTreeState=clean"
done

begin=$SECONDS
elapsed() { printf '%3d:%02d' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

echo "$(elapsed) the control plane of Kubernetes $version: a first build takes five to ten minutes" >&2
count=0
for program in "${programs[@]}"; do
  count=$((count + 1))
  name=${program##*/}
  [[ $program == go.etcd.io/* ]] && name=etcd
  echo "$(elapsed) $count of ${#programs[@]}: $name" >&2
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$stamps" -o "$work/$name" "$program"
done

touch "$work/complete"
chmod 0755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
echo "$(elapsed) done" >&2
echo "$target"
