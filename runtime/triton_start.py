"""How is Triton started so that nobody can do more with it than ask for embeddings: the script in a repository?"""

from collections.abc import Sequence

START = "start.sh"

_SCRIPT = r"""#!/bin/sh
# Serve a repository beside this script, to this machine alone: ./start.sh NAME [flags of tritonserver]
# NAME is one of: {names}
# There is no TLS and no password: put a proxy before it, and keep others from writing here. A container needs the
# machine's network: docker run --network host.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=${{1-{default}}}
case $name in
  {pattern}) ;;
  *) echo "start.sh: it serves one of: {names}" >&2; exit 2 ;;
esac
[ $# -eq 0 ] || shift
if [ "$(id -u)" -eq 0 ]; then
  echo 'start.sh: Triton needs no root; start it as another user (docker run --user 1000)' >&2
  exit 2
fi
# What no client needs (shared memory, loading and unloading, traces, logs) wants a key that is told to nobody; users of
# this machine can read it among its processes.
key=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
closed=shared-memory,model-repository,trace,logging:key=$key
unset AIP_MODE  # would open Vertex AI's port
exec tritonserver \
  --model-repository="$here/$name" \
  --model-control-mode=none \
  --disable-auto-complete-config \
  --exit-on-error=true \
  --strict-readiness=true \
  --http-address=127.0.0.1 \
  --http-restricted-api="$closed" \
  --allow-grpc=false \
  --grpc-address=127.0.0.1 \
  --grpc-restricted-protocol="$closed" \
  --metrics-address=127.0.0.1 \
  "$@"
"""


def write_start(repositories: Sequence[str]) -> str:
    """A shell script that serves one of `repositories`; where there is one, it needs not be named."""
    default = repositories[0] if len(repositories) == 1 else ""
    return _SCRIPT.format(names=" ".join(repositories), pattern=" | ".join(repositories), default=default)
