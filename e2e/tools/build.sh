#!/usr/bin/env bash
# Gathers what the manifests and the chart are tested with: from Go modules, and from Debian's package of Prometheus, which is
# unpacked and not installed, so that no service of it is ever started here. Progress goes to standard error; the last line
# on standard output is the directory:
#
#   helm                            the program
#   prometheus, promtool            the programs
#   prometheus-operator/*.yaml      the operator's CustomResourceDefinitions, as it publishes them
#
#   build.sh           build what is missing, print the directory
#   build.sh --where   print the directory only; fails when it is not complete
#
# The directory's name is a hash of what decides its content, so it is complete or absent and never stale.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

# No package of it is built, so it is in no go.mod; Go's checksum database vouches for it.
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0

key=$(cat go.mod go.sum build.sh | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/herald/tools
target=$root/$key

if [[ -f $target/complete ]]; then
  echo "$target"
  exit 0
fi
if [[ ${1:-} == --where ]]; then
  echo "the tools are not built yet: run e2e/tools/build.sh" >&2
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

echo "helm $(go list -m -f '{{.Version}}' helm.sh/helm/v3): a first build takes two to four minutes" >&2
# What Helm's own build stamps: without it every chart is judged for Kubernetes 1.20.
minor=$(go list -m -f '{{.Version}}' k8s.io/client-go)
minor=${minor#v0.}
minor=${minor%%.*}
stamps="-s -w -X helm.sh/helm/v3/internal/version.version=$(go list -m -f '{{.Version}}' helm.sh/helm/v3)"
for package in chartutil lint/rules; do
  stamps+=" -X helm.sh/helm/v3/pkg/$package.k8sVersionMajor=1 -X helm.sh/helm/v3/pkg/$package.k8sVersionMinor=$minor"
done
CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$stamps" -o "$work/helm" helm.sh/helm/v3/cmd/helm
echo "definitions of $operator" >&2
source=$(cd "$work" && go mod download -json "$operator" | sed -n 's/^\t"Dir": "\(.*\)",\{0,1\}$/\1/p')
mkdir "$work/prometheus-operator"
# Files of the module cache are read-only; the copies shall not be.
install -m 0644 "$source"/example/prometheus-operator-crd/*.yaml "$work/prometheus-operator"
echo "prometheus from Debian's package" >&2
mkdir "$work/package"
download() { (cd "$work/package" && apt-get download -qq prometheus); }
# A machine that never asked for the lists, or long ago, asks for a package that is there no more.
download 2>/dev/null || { apt-get update -qq && download; }
dpkg-deb --extract "$work"/package/prometheus_*.deb "$work/package"
mv "$work"/package/usr/bin/{prometheus,promtool} "$work"
rm -rf "$work/package"

touch "$work/complete"
chmod 0755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
echo "$target"
