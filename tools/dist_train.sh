#!/usr/bin/env bash
# Train on several processes: tools/dist_train.sh CONFIG PROCESSES [arguments of tools/train.py]
# As mmseg's own, by torchrun. NNODES, NODE_RANK, MASTER_ADDR and PORT may be set from outside.
set -euo pipefail
if [ $# -lt 2 ]; then
  echo "usage: $0 CONFIG PROCESSES [--work-dir DIR] [--resume] [--amp] [--cfg-options ...]" >&2
  exit 2
fi
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes="${NNODES:-1}" \
  --node_rank="${NODE_RANK:-0}" \
  --master_addr="${MASTER_ADDR:-127.0.0.1}" \
  --master_port="${PORT:-29500}" \
  --nproc_per_node="$2" \
  "$(dirname "$0")/train.py" "$1" --launcher pytorch "${@:3}"
