#!/usr/bin/env bash
# Builds what Kubernetes' own e2e suite needs: the suite (e2e.test) and what runs it (ginkgo) from Go modules, and the images of
# its pods and of CoreDNS as tar files in images/, under the names that the suite calls them by. agnhost is the suite's own; the
# shell, wget, nc and the like beside it are Debian's packages, unpacked and not installed.
# Progress goes to standard error; the last line on standard output is the directory.
#
#   build.sh           build what is missing, print the directory
#   build.sh --where   print the directory only; fails when it is not complete
#
# The directory's name is a hash of what decides its content, so it is complete or absent and never stale.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here"

kubernetes=k8s.io/kubernetes
# curl, wget and nc are what the suite asks Services with, ss and ip what it looks at a node with. busybox has the rest; its wget
# and nc lack options that the suite uses, and its shell prefers them to others.
packages=(busybox-static curl dash iproute2 netcat-openbsd wget)

key=$(cat go.mod go.sum build.sh coredns/main.go ../../release/image | sha256sum | cut -c1-16)
root=${XDG_CACHE_HOME:-$HOME/.cache}/herald/conformance
target=$root/$key

if [[ -f $target/complete ]]; then
  echo "$target"
  exit 0
fi
if [[ ${1:-} == --where ]]; then
  echo "Kubernetes' e2e suite is not built yet: run e2e/conformance/build.sh" >&2
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
export CGO_ENABLED=0

version=$(go list -m -f '{{.Version}}' "$kubernetes")
major=${version#v}
major=${major%%.*}
minor=${version#v*.}
minor=${minor%%.*}

# The suite compares its version with the server's.
stamps="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  stamps+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
  stamps+=" -X $package.gitTreeState=clean"
done

begin=$SECONDS
elapsed() { printf '%3d:%02d' $(((SECONDS - begin) / 60)) $(((SECONDS - begin) % 60)); }

echo "$(elapsed) the e2e suite of Kubernetes $version: a first build takes about ten minutes" >&2
echo "$(elapsed) 1 of 3: e2e.test" >&2
# What it tests is not ours to vet.
go test -c -vet=off -trimpath -ldflags "$stamps" -o "$work/e2e.test" "$kubernetes/test/e2e"

echo "$(elapsed) 2 of 3: ginkgo, and the programs of the images" >&2
build() { go build -trimpath -buildvcs=false -ldflags "-s -w" -o "$@"; }
build "$work/ginkgo" github.com/onsi/ginkgo/v2/ginkgo
build "$work/coredns" ./coredns
build "$work/regression-issue-74839" "$kubernetes/test/images/regression-issue-74839"
mkdir -p "$work/files" "$work/debs/partial" "$work/images"
build "$work/files/agnhost" "$kubernetes/test/images/agnhost"

echo "$(elapsed) 3 of 3: the images" >&2
touch "$work/none-installed"
download() {
  apt-get -qq -y --no-install-recommends --download-only -o APT::Sandbox::User=root \
    -o Dir::State::status="$work/none-installed" -o Dir::Cache::archives="$work/debs" install "${packages[@]}" >&2
}
download || { apt-get -qq update >&2 && download; }
for deb in "$work"/debs/*.deb; do dpkg-deb --extract "$deb" "$work/files"; done
there=$(cd "$work/files" && ls {,usr/}{,s}bin)
for applet in $("$work/files/bin/busybox" --list); do
  grep -qxF -- "$applet" <<<"$there" || ln -s busybox "$work/files/bin/$applet"
done
ln -sf dash "$work/files/bin/sh"
ln -sf nc.openbsd "$work/files/bin/nc"
# As busybox's: where nobody may answer, twenty tries are four minutes.
echo "tries = 1" >>"$work/files/etc/wgetrc"
# Beside agnhost in its own image: what its `porter` serves HTTPS with.
source=$(go list -m -f '{{.Dir}}' "$kubernetes")/test/images/agnhost
install -m 0644 "$source"/porter/localhost.{crt,key} "$work/files"
mkdir -p "$work/files"/{tmp,uploads}
chmod 1777 "$work/files/tmp"
rm -rf "$work/files"/usr/share/{doc,man,locale,lintian,bug}

arch=$(go env GOARCH)
names=$("$work/e2e.test" --list-images)
# images PATTERN PROGRAM: one for each name of the suite that ends so.
images() {
  local name found=
  while read -r name; do
    found=$name
    ../../release/image "$work/images/$(tr /: -- <<<"${name#*/}").tar" "$name" "$arch=$2" >/dev/null
  done < <(grep -E "/$1\$" <<<"$names")
  [[ $found ]] || { echo "the suite names no image $1" >&2; exit 1; }
}
ENTRYPOINT=/agnhost COMMAND=pause images "agnhost:$(<"$source/VERSION")" "$work/files"
COMMAND=sh images 'busybox:.*' "$work/files"
# Whoever wants nginx wants something on port 80.
ENTRYPOINT=/agnhost COMMAND=test-webserver images 'nginx:.*' "$work/files"
images 'regression-issue-74839:.*' "$work/regression-issue-74839"
../../release/image "$work/images/coredns.tar" docker.io/library/coredns:lab "$arch=$work/coredns" >/dev/null

rm -rf "$work"/{files,debs,none-installed,coredns,regression-issue-74839}
touch "$work/complete"
chmod 0755 "$work"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
echo "$(elapsed) done" >&2
echo "$target"
