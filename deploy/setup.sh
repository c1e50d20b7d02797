#!/usr/bin/env bash
# Makes what deploy/compose.yaml needs and no repository keeps: the database's password in deploy/.env, Grafana's and the
# server's keys in deploy/secrets/. Prints a key of yours, once. What is there already stays.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
random() { python3 -c 'import secrets; print(secrets.token_urlsafe(24))' 2>/dev/null || openssl rand -hex 24; }

mkdir -p secrets # closed to others; its files are not, for each container reads them as a user of its own
[ -s .env ] || printf 'POSTGRES_PASSWORD=%s\n' "$(random)" >.env
[ -s secrets/grafana_password ] || random >secrets/grafana_password
[ -e secrets/keys ] || : >secrets/keys

new_key() { # new_key NAME: prints the key; its hash goes into secrets/keys
  docker compose -f compose.yaml run --rm --no-deps -T --user "$(id -u):$(id -g)" -v "$PWD/secrets:/secrets" server \
    serve --key-file /secrets/keys --new-key "$1"
}
docker compose -f compose.yaml build server
if [ ! -s secrets/metrics_key ]; then
  new_key prometheus >secrets/metrics_key
fi
if ! grep -q '^you ' secrets/keys; then
  printf 'Your key, which is kept nowhere: %s\n' "$(new_key you)"
fi
chmod 644 secrets/*
