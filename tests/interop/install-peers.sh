#!/bin/bash
# Installs the real programs that the tests here speak with. As root or with sudo, on Debian and its kin; what is there
# already is left alone. No daemon is started: the tests start what they need, on ports of their own.
#
# Exim and OpenSMTPD are unpacked and not installed, since Debian lets a machine have one MTA only, and that is Postfix here. They go
# with npm's packages to RELAYPROXY_INTEROP_PEERS, by default a folder that other users may enter too (Exim becomes another user).
# Arguments are more packages to install.
set -euo pipefail
peers=${RELAYPROXY_INTEROP_PEERS:-/var/cache/relayproxy-peers}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo --non-interactive "$@"; fi; }
installed() { dpkg-query --show --showformat '${db:Status-Status}\n' "$1" 2>/dev/null | grep -qx installed; }

# postfix brings smtp-source and smtp-sink; libsasl2-modules and sasl2-bin are for its AUTH, libnet-ssleay-perl for swaks's TLS.
packages=(postfix libsasl2-modules sasl2-bin swaks libnet-ssleay-perl curl msmtp s-nail openssl stunnel4 haproxy testssl.sh tshark)
packages+=(dovecot-lmtpd dovecot-submissiond)
packages+=(postgresql)
packages+=(libdb5.3 libgnutls-dane0 libidn12 libnsl2 libpcre2-8-0) # what Exim links
packages+=(libevent-2.1-7) # and OpenSMTPD, of what is not everywhere
command -v npm >/dev/null || packages+=(nodejs npm)
packages+=("$@")
missing=()
for package in "${packages[@]}"; do
  installed "$package" || missing+=("$package")
done

exim=$peers/exim
opensmtpd=$peers/opensmtpd
if [ ${#missing[@]} -gt 0 ] || [ ! -x "$exim/usr/sbin/exim4" ] || [ ! -x "$opensmtpd/usr/sbin/smtpd" ]; then
  as_root apt-get update -qq
fi
if [ ${#missing[@]} -gt 0 ]; then
  policy=/usr/sbin/policy-rc.d
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    trap 'as_root rm -f "$policy"' EXIT
  fi
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi

as_root mkdir -p "$peers"
unpack() { # package folder
  local download
  download=$(mktemp -d)
  (cd "$download" && as_root apt-get -qq -o APT::Sandbox::User=root download "$1")
  as_root dpkg-deb --extract "$download/$1"_*.deb "$2"
  rm -r "$download"
}
[ -x "$exim/usr/sbin/exim4" ] || unpack exim4-daemon-light "$exim"
[ -x "$opensmtpd/usr/sbin/smtpd" ] || unpack opensmtpd "$opensmtpd"
# The user that Debian compiled in; the package would make it.
getent passwd Debian-exim >/dev/null ||
  as_root useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin Debian-exim

if [ ! -d "$peers/node/node_modules/nodemailer" ] || [ ! -d "$peers/node/node_modules/Haraka" ]; then
  as_root mkdir -p "$peers/node"
  haraka=Haraka
  [ "$(node -p 'parseInt(process.versions.node)')" -ge 20 ] || haraka=Haraka@3.1.1 # the last one for Debian 12's own node
  as_root npm install --prefix "$peers/node" --no-audit --no-fund --ignore-scripts --omit=optional --loglevel=error \
    nodemailer "$haraka"
fi
