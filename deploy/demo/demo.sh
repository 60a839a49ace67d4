#!/usr/bin/env bash
# A whole federation in containers on this machine: a coordinator and two hospitals with phantom images, each with the
# compose file that it would use on a machine of its own, and nothing of it with a way out of this machine.
#   deploy/demo/demo.sh [FOLDER]        up, run, down; what the run left stays in FOLDER/run
#   deploy/demo/demo.sh up FOLDER       images to containers: keys, certificates, enrolment
#   deploy/demo/demo.sh run FOLDER      a run, followed to its end
#   deploy/demo/demo.sh down FOLDER     removes containers, volumes, networks, and all of FOLDER but what runs left
#   deploy/demo/demo.sh compose FOLDER OWNER ...    docker compose for `coordinator` or a hospital
# MEDSEG_SITE_IMAGE, MEDSEG_SERVER_IMAGE: what to run (medseg-site:latest, medseg-server:latest; `make images` builds them)
# EXPERIMENT: a file to take instead of deploy/demo/experiment.toml; PHANTOMS: words for `medseg-simulate phantoms`
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export MEDSEG_SITE_IMAGE=${MEDSEG_SITE_IMAGE:-medseg-site:latest} MEDSEG_SERVER_IMAGE=${MEDSEG_SERVER_IMAGE:-medseg-server:latest}
hospitals=(hospital-1 hospital-2)
docker=${DOCKER:-docker}
if [ -z "${COMPOSE:-}" ]; then
  if $docker compose version >/dev/null 2>&1; then COMPOSE="$docker compose"; else COMPOSE=docker-compose; fi
fi
exec {input}</dev/null # what `compose` reads: nothing, unless it was called by name
fingerprint() { grep -oE '[0-9a-f]{4}(-[0-9a-f]{4}){4}' <<<"$1" | tail -1; }
say() { echo "== $*"; }

compose() { # OWNER WORDS...: with the files that this owner uses on a machine of its own
  local owner=$1 role=site
  shift
  [ "$owner" = coordinator ] && role=server
  SITE=$out/$owner DATA=$out/data/$owner EXCHANGE=$out/exchange GATEWAY_BIND=127.0.0.1 GATEWAY_PORT=0 \
    TRAINER_MEMORY=4g SUPEREXEC_MEMORY=4g DEMO_NETWORK=$name COMPOSE_PROJECT_NAME=$name-$owner \
    $COMPOSE -f "$here/../$role/compose.yaml" -f "$here/compose.yaml" "$@" <&"$input"
}

make_images() { # phantoms, and in each hospital's folder what lies in that hospital
  $docker run --rm --network none --user 0:0 --volume "$out:/out" --entrypoint /bin/sh "$MEDSEG_SITE_IMAGE" -euc '
    medseg-simulate phantoms --out /tmp/images "$@"
    for hospital in '"${hospitals[*]}"'; do
      data=/out/data/$hospital
      mkdir -p "$data"
      awk -F, -v site="$hospital" "NR == 1 || \$3 == site" /tmp/images/manifest.csv >"$data/manifest.csv"
      tail -n +2 "$data/manifest.csv" | tr -d "\r" | awk -F, "{ print \$4; print \$5 }" \
        | while read -r file; do mkdir -p "$(dirname "$data/$file")"; cp "/tmp/images/$file" "$data/$file"; done
    done' phantoms --sites ${#hospitals[@]} ${PHANTOMS:---cases 12}
}

up() {
  if [ -e "$out" ]; then
    echo "error: $out is there already. Remove it, or name another folder." >&2
    exit 1
  fi
  mkdir -p "$out/exchange"
  for hospital in "${hospitals[@]}"; do mkdir "$out/$hospital"; done
  cp "${EXPERIMENT:-$here/experiment.toml}" "$out/exchange/experiment.toml"
  make_images
  $docker network create --internal "$name" >/dev/null
  say "coordinator: a federation"
  made=$(compose coordinator run --rm -T superlink init /federation --name demo --address gateway:8443 \
    --listen 0.0.0.0:8443 --superlink superlink:8000)
  federation=$(fingerprint "$made")
  for hospital in "${hospitals[@]}"; do
    say "$hospital: keys and a request; coordinator: the roster and a kit; $hospital: joins"
    made=$(compose "$hospital" run --rm -T setup init /site --name "$hospital" --data /data)
    compose "$hospital" run --rm -T --entrypoint cat setup "/site/$hospital.request.json" >"$out/exchange/$hospital.request.json"
    compose coordinator run --rm -T superlink approve /federation "/exchange/$hospital.request.json" \
      --fingerprint "$(fingerprint "$made")"
    compose coordinator run --rm -T --entrypoint cat superlink "/federation/kits/$hospital.kit.json" >"$out/exchange/kit.json"
    $docker run --rm --network none --user 0:0 --volume "$out:/out" --entrypoint cp "$MEDSEG_SITE_IMAGE" \
      /out/exchange/kit.json /out/exchange/experiment.toml "/out/$hospital/"
    compose "$hospital" run --rm -T setup join /site /site/kit.json --fingerprint "$federation"
    compose "$hospital" run --rm -T --entrypoint sed setup -i 's/^\(min_patients_[a-z]*\) = 5/\1 = 1/' /site/site.toml # phantoms
  done
  for owner in coordinator "${hospitals[@]}"; do compose "$owner" up --detach; done
  for hospital in "${hospitals[@]}"; do
    compose "$hospital" exec -T trainer medseg-site approve /site /site/experiment.toml --yes
  done
}

run() {
  say "coordinator: a run"
  compose coordinator exec -T superlink medseg-server run /federation /exchange/experiment.toml
  $docker cp "$(compose coordinator ps -q superlink):/federation/runs" - | tar -x -C "$out"
  say "what it left: $(ls -d "$out"/runs/*/report.html | tail -1)"
}

down() {
  for owner in coordinator "${hospitals[@]}"; do compose "$owner" down --volumes --timeout 10 >/dev/null 2>&1 || true; done
  $docker network rm "$name" >/dev/null 2>&1 || true
  $docker run --rm --network none --user 0:0 --volume "$out:/out" --workdir /out --entrypoint rm "$MEDSEG_SITE_IMAGE" \
    -rf data exchange "${hospitals[@]}"
}

action=all
case ${1:-} in up | run | down | compose) action=$1; shift ;; esac
out=$(realpath --canonicalize-missing "${1:-federation-containers}")
name=medseg-$(basename "$out" | tr -cd 'a-z0-9-')
case $action in
  all) trap down EXIT; up; run ;;
  compose) shift; exec {input}<&0; compose "$@" ;;
  *) $action ;;
esac
