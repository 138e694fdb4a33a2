#!/usr/bin/env bash
# The whole loop on the embedded market: train under a privacy budget, release a signed bundle, pick ads with it.
set -euo pipefail
run=${1:-runs/demo}
rm -rf "$run"

say() { printf '\n== %s\n$ %s\n' "$1" "$2"; }

say "train across 20,000 simulated devices, device-level epsilon 4" "sottovoce simulate --data market --set measure.calibration=1 --out $run"
sottovoce simulate --data market --set measure.calibration=1 --out "$run"

say "how far off are its chances? asked once, out of the same epsilon" "sottovoce measure $run calibration"
sottovoce measure "$run" calibration

say "what did that cost? recomputed from the ledger, then measured" "sottovoce audit $run"
sottovoce audit "$run"

say "calibrate, quantize, export to ONNX and TFLite, compare, sign" "sottovoce release $run"
sottovoce release "$run"

for device in 3 6 14; do
  phone=$run/phones/$device
  now=$(sottovoce data device --out "$phone" --device $device 2>/dev/null)
  say "device $device asks for an ad" "sottovoce pick $run/bundle.svb --key $run/signing.pub.pem --catalogue ... --log ... --consent ... --request ..."
  sottovoce pick "$run/bundle.svb" --key "$run/signing.pub.pem" --catalogue "$phone/catalogue.json" \
    --log "$phone/events.jsonl" --consent "$phone/consent.json" --request "$phone/request.json" --now "$now"
done

printf '\nreport: %s/report.html\n' "$run"
