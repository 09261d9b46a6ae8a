#!/usr/bin/env bash
# Puts the secrets that the realm refers to into it, and starts Keycloak. The image has bash and little else.
set -euo pipefail
umask 077

realm=$(</opt/sallyport/realm.json)
while IFS=': ' read -r name value; do
  realm=${realm//<"$name">/$value}
done </var/lib/sallyport/secrets/secrets.yaml

mkdir -p /opt/keycloak/data/import
printf '%s' "$realm" >/opt/keycloak/data/import/realm.json

# What it learns it forgets at its end, so that the realm is always the one of the file.
exec /opt/keycloak/bin/kc.sh start-dev --import-realm --db=dev-mem --health-enabled=true \
  --hostname=http://127.0.0.1:7421 --http-host=0.0.0.0 --http-port=7421
