#!/bin/sh
# `medseg-site init|join ...` in a container, then every file is given to the role that needs it: what
# `docker compose run --rm setup` runs, as root with no network, so that nobody runs as root afterwards.
set -eu
command=$1
shift
case $command in
  init) medseg-site init "$@" --egress-listen 0.0.0.0 --egress-host egress ;;
  *) medseg-site "$command" "$@" ;;
esac
trainer=10011 relay=10012 egress=10013 group=10010
chown -R $trainer:$group /site
chmod 0750 /site
give() { # ACCOUNT FILE: after `leave --purge` there is none
  if [ -e "$2" ]; then chown "$1" "$2"; fi
}
give $relay /site/keys/node.key
for file in keys/tls.key pki/egress.key keys/proxy.login; do give $egress "/site/$file"; done
