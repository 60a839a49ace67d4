#!/usr/bin/env bash
# A whole federation on this machine: a coordinator and two hospitals with phantom images, over mutual TLS on loopback.
# Each command below is the one that a coordinator or a hospital gives on a machine of its own.
#   deploy/loopback.sh [FOLDER]     FOLDER must not exist; default: federation
set -euo pipefail
out=${1:-federation}
if [ -e "$out" ]; then
  echo "error: $out is there already. Remove it, or name another folder: deploy/loopback.sh FOLDER" >&2
  exit 1
fi
sites=(hospital-1 hospital-2)
fingerprint() { grep -oE '[0-9a-f]{4}(-[0-9a-f]{4}){4}' <<<"$1" | tail -1; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

mkdir -p "$out"
cd "$out"
medseg-simulate phantoms --out images --sites ${#sites[@]} --cases 12
for site in "${sites[@]}"; do # what lies in that hospital
  awk -F, -v site="$site" 'NR == 1 || $3 == site' images/manifest.csv >"images/$site.csv"
done
cat >experiment.toml <<'TOML'
[task]
name = "phantom"
spatial_dims = 3
spacing_mm = [2.0, 2.0, 3.0]
channels = [{ name = "synthetic", modality = "MR", normalisation = "zscore" }]
labels = { organ = 1, lesion = 2 }

[model]
name = "unet"
channels = [8, 16, 32, 64]

[training]
learning_rate = 9e-3
batch_size = 2
cpu_threads = 1
patch_size = [48, 48, 32]

[federation]
rounds = 4
local_epochs = 4
server_momentum = 0.3
TOML

echo "== coordinator: a federation"
made=$(medseg-server init coordinator --name loopback --address "127.0.0.1:$(free_port)")
echo "$made"
federation=$(fingerprint "$made")
for site in "${sites[@]}"; do
  echo "== $site: keys and a request; coordinator: the roster and a kit; $site: joins and approves the experiment"
  made=$(medseg-site init "$site" --name "$site" --data "images/$site.csv")
  medseg-server approve coordinator "$site/$site.request.json" --fingerprint "$(fingerprint "$made")"
  medseg-site join "$site" "coordinator/kits/$site.kit.json" --fingerprint "$federation"
  sed -i 's/^\(min_patients_[a-z]*\) = 5/\1 = 1/' "$site/site.toml" # phantoms: no patient can be told from a mean
  medseg-site approve "$site" experiment.toml --yes
done

processes=()
trap 'kill "${processes[@]}" 2>/dev/null; wait' EXIT
medseg-server up coordinator >coordinator.log 2>&1 &
processes+=($!)
for site in "${sites[@]}"; do
  medseg-site up "$site" >"$site.log" 2>&1 &
  processes+=($!)
done
echo "== coordinator: a run"
medseg-server run coordinator experiment.toml
