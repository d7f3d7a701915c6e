#!/bin/sh
# Make the passwords that docker/compose.yaml mounts as files, in docker/secrets. Those that exist stay.
# Containers read the files as other users; the folder keeps the other users of this machine out.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
chmod 700 secrets
cd secrets

# 32 random hex digits: no character that a URL or TOML would need to quote.
password() {
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

keep() {
    [ -s "$1" ] || printf '%s' "$2" >"$1"
}

keep login "voco:$(password)"
keep database_password "$(password)"
keep s3_user voco
keep s3_password "$(password)"
keep server.toml "active = \"voco\"
[profiles.voco]
PREFECT_SERVER_API_AUTH_STRING = \"$(cat login)\"
PREFECT_SERVER_DATABASE_PASSWORD = \"$(cat database_password)\"
"
keep client.toml "active = \"voco\"
[profiles.voco]
PREFECT_API_AUTH_STRING = \"$(cat login)\"
"
keep s3_credentials "[default]
aws_access_key_id = $(cat s3_user)
aws_secret_access_key = $(cat s3_password)
"
chmod 644 ./*
echo "docker/secrets: log in to the page of Prefect with docker/secrets/login"
