#!/usr/bin/env bash
# Images that the compose test needs: those that cannot be pulled are made of the programs on this machine. An image
# made so holds the program, the libraries that it asks for, and nothing else.
#
#   images.sh ENVOY_BINARY
set -euo pipefail

envoy=$(realpath "$1")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

# have IMAGE tells whether the image is here, or can be had.
have() {
  docker image inspect "$1" >/dev/null 2>&1 || timeout 300 docker pull --quiet "$1" >/dev/null 2>&1
}

# put PROGRAM [AS] copies a program and its libraries.
put() {
  local program lib
  program=$(realpath "$(command -v "$1")")
  install -D -m 0755 "$program" "$root/${2:-bin/$1}"
  { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r lib; do
    [[ -e $root/$lib ]] || install -D -m 0755 "$(realpath "$lib")" "$root/$lib"
  done
}

# import IMAGE [OPTION...] makes the image of what has been put.
import() {
  echo "$1 cannot be pulled: made of what this machine has" >&2
  tar -C "$root" -c . | docker import "${@:2}" - "$1" >/dev/null
  rm -rf "${root:?}"/*
}

image=$(sed -n 's/^ *image: \(envoyproxy.*\)/\1/p' "$(dirname "$0")/../../deploy/compose/compose.yaml")
if ! have "$image"; then
  put "$envoy" usr/local/bin/envoy
  put bash # for the health check
  import "$image"
fi

image=$(sed -n 's/^ARG GO_IMAGE=//p' "$(dirname "$0")/../../Dockerfile")
if ! have "$image"; then
  for program in sh mkdir cp chmod; do put "$program"; done
  mkdir -p "$root/usr/local/go" "$root/tmp" "$root/etc/ssl/certs"
  chmod 1777 "$root/tmp"
  cp -R "$(go env GOROOT)"/{bin,pkg,src,go.env,VERSION} "$root/usr/local/go/"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  import "$image" --change 'ENV PATH=/usr/local/go/bin:/bin GOTOOLCHAIN=local HOME=/tmp GOPATH=/tmp/go'
fi
