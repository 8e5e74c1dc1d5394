#!/bin/sh
# Makes the certificates that the recipes name, in certs/ of each, by a small authority of its own a recipe.
# Run it again to get new ones. It needs openssl, and nothing it makes is for production.
set -eu
cd "$(dirname "$0")"
umask 077

# authority RECIPE
authority() {
    mkdir -p "$1/certs"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 90 \
        -subj "/CN=Authority of the recipe $1" -keyout "$1/certs/ca.key" -out "$1/certs/ca.pem" 2>/dev/null
}

# certificate RECIPE FILE serverAuth|clientAuth NAMES
certificate() {
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
        -subj "/CN=$2" -keyout "$1/certs/$2.key" -out "$1/certs/$2.csr" 2>/dev/null
    printf '%s\n' "basicConstraints=critical,CA:FALSE" "keyUsage=critical,digitalSignature" \
        "extendedKeyUsage=$3" "subjectAltName=$4" > "$1/certs/$2.ext"
    openssl x509 -req -in "$1/certs/$2.csr" -CA "$1/certs/ca.pem" -CAkey "$1/certs/ca.key" -CAcreateserial \
        -days 90 -sha256 -extfile "$1/certs/$2.ext" -out "$1/certs/$2.pem" 2>/dev/null
    rm "$1/certs/$2.csr" "$1/certs/$2.ext"
}

for recipe in web-app websocket grpc mtls canary redirect unix-socket least-connections discovery upstream-tls \
    maintenance site-files cache-by-path tiers overload mirror sticky-sessions; do
    authority "$recipe"
    certificate "$recipe" localhost serverAuth \
        DNS:localhost,DNS:old.localhost,DNS:new.localhost,IP:127.0.0.1
done
certificate mtls alice clientAuth email:alice@example.com
certificate upstream-tls app serverAuth DNS:app.internal
certificate upstream-tls lockgate clientAuth DNS:lockgate.internal

authority two-sites
certificate two-sites shop serverAuth DNS:shop.localhost
certificate two-sites blog serverAuth DNS:blog.localhost
