#!/usr/bin/env bash
# A build each night: one at a time, tried again while its exit code says that this may help.
#   nightly.sh BUILD.yaml [arguments of clipmill build, such as --deadline 06:00]
set -u
config=${1:?usage: nightly.sh BUILD.yaml [arguments]}
shift
attempts=${CLIPMILL_ATTEMPTS:-3}
pause_seconds=${CLIPMILL_PAUSE_SECONDS:-600}
lock=${CLIPMILL_LOCK:-/tmp/clipmill-nightly.lock}

exec 9>"$lock"
if ! flock --nonblock 9; then
  echo "nightly.sh: the build of yesterday still runs; it goes on, this one ends" >&2
  exit 0
fi
for ((attempt = 1; attempt <= attempts; attempt++)); do
  clipmill build "$config" "$@" 9>&-
  code=$?
  case $code in
    0) exit 0 ;;
    3) echo "nightly.sh: complete, with videos in quarantine: see clipmill status" >&2; exit 0 ;;
    1 | 2) echo "nightly.sh: exit code $code: someone has to look at it" >&2; exit "$code" ;;
  esac
  # 4, or killed by a signal (128 and more): what is committed stands, the same command goes on.
  echo "nightly.sh: attempt $attempt of $attempts ended with exit code $code" >&2
  if ((attempt < attempts)); then sleep "$pause_seconds"; fi
done
exit "$code"
