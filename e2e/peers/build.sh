#!/usr/bin/env bash
# Builds what Herald is measured beside, from Go modules: MetalLB's controller and speaker, with its CRDs.
# kube-proxy, the other half, is built by e2e/cluster/build.sh. Progress goes to standard error; the last line on
# standard output is the directory:
#
#   metallb/controller, metallb/speaker    the programs
#   metallb/crds/*.yaml                    the CRDs of the same version, as MetalLB publishes them
#   metallb/version                        v0.16.2
#
#   build.sh           build what is missing, print the directory
#   build.sh --where   print the directory only; fails when it is not complete
#
# The directory's name is a hash of what decides its content, so it is complete or absent and never stale.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/metallb"

module=go.universe.tf/metallb

key=$(cat go.mod go.sum ../frr-k8s/go.mod ../frr-k8s/api/v1beta1/types.go ../build.sh | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/herald/peers
target=$root/$key

if [[ -f $target/complete ]]; then
  echo "$target"
  exit 0
fi
if [[ ${1:-} == --where ]]; then
  echo "the peers are not built yet: run e2e/peers/build.sh" >&2
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

begin=$SECONDS
elapsed() { printf '%3d:%02d' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

version=$(go list -m -f '{{.Version}}' "$module")
echo "$(elapsed) MetalLB $version: a first build takes two to four minutes" >&2
mkdir -p "$work/metallb/crds"
for program in controller speaker; do
  echo "$(elapsed) $program" >&2
  CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/metallb/$program" "$module/$program"
done
# Files of the module cache are read-only; the copies shall not be.
install -m 0644 "$(go list -m -f '{{.Dir}}' "$module")"/config/crd/bases/*.yaml "$work/metallb/crds"
echo "$version" >"$work/metallb/version"

touch "$work/complete"
chmod 0755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
echo "$(elapsed) done; the CRDs are in $target/metallb/crds" >&2
echo "$target"
