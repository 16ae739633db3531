#!/usr/bin/env bash
# Runs the kit's steps in order of worth. README.md beside it says how a step is written.
set -u
export LC_ALL=C

usage="Usage: run.sh OUT --minutes N [--again STEP]...

  OUT          a folder for what is found; a second run with it goes on where the first stopped
  --minutes N  at most so long, all in all: a number such as 5 or 2.5
  --again STEP run a step once more that was run already; \`all\` for every one"

refuse() {
  echo "run.sh: $1" >&2
  exit 2
}

# ---- arguments

out='' minutes='' again=' '
while (($#)); do
  case $1 in
    -h | --help)
      echo "$usage"
      exit
      ;;
    --minutes | --again)
      (($# > 1)) || refuse "$1 needs a value"
      if [[ $1 == --minutes ]]; then minutes=$2; else again+="$2 "; fi
      shift 2
      ;;
    -*) refuse "there is no option $1; see run.sh --help" ;;
    *)
      [[ -z $out ]] || refuse "one folder is expected, but $out and $1 were given"
      out=$1
      shift
      ;;
  esac
done
[[ -n $out ]] || refuse "a folder for the results is expected; see run.sh --help"
[[ $minutes =~ ^([0-9]{1,4})(\.([0-9]))?$ ]] || refuse "--minutes needs a number such as 5 or 2.5, but was given '$minutes'"
end=$((10#${BASH_REMATCH[1]} * 60 + ${BASH_REMATCH[3]:-0} * 6))

KIT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) || exit 2
mkdir -p "$out" || exit 2
KIT_OUT=$(cd "$out" && pwd) || exit 2
KIT_WORK=$(mktemp -d "${TMPDIR:-/tmp}/gpu-kit.XXXXXX") || exit 2
export KIT KIT_OUT KIT_WORK
trap 'rm -rf "$KIT_WORK"' EXIT

# ---- steps: as steps.txt lists them, and what became of each

names=()
declare -A on_gpu on_emulator command status took note
# Not -r: a backslash at the end of a line joins the next one.
while IFS='|' read name gpu emulator line; do
  name=${name// /}
  [[ -z $name || $name == \#* ]] && continue
  names+=("$name")
  on_gpu[$name]=${gpu// /} on_emulator[$name]=${emulator// /} command[$name]=$line
done <"$KIT/steps.txt"

for name in $again; do
  [[ $name == all || -n ${command[$name]:-} ]] || refuse "there is no step '$name'; the steps are ${names[*]}"
done

if [[ -f $KIT_OUT/steps.tsv ]]; then
  while IFS=$'\t' read -r name how seconds why; do
    [[ -n ${command[$name]:-} && $again != *" $name "* && $again != *' all '* ]] || continue
    status[$name]=$how took[$name]=$seconds note[$name]=$why
  done <"$KIT_OUT/steps.tsv"
fi

# Whole or not at all: a machine may go away at any time.
save() {
  local name
  for name in "${names[@]}"; do
    if [[ -n ${status[$name]:-} ]]; then
      printf '%s\t%s\t%s\t%s\n' "$name" "${status[$name]}" "${took[$name]:-0}" "${note[$name]:-}"
    fi
  done >"$KIT_WORK/steps.tsv"
  cp "$KIT_WORK/steps.tsv" "$KIT_OUT/.steps.tsv" && mv "$KIT_OUT/.steps.tsv" "$KIT_OUT/steps.tsv"
}

mark() { # step, status, seconds, note
  status[$1]=$2 took[$1]=$3 note[$1]=${4//$'\t'/ }
  save
}

# ---- programs

needs=$(cat "$KIT/glibc.txt" 2>/dev/null)
has=$(getconf GNU_LIBC_VERSION 2>/dev/null)
has=${has##* }
if [[ -n $needs && $(printf '%s\n' "$needs" "${has:-0}" | sort -V | head -n 1) != "$needs" ]]; then
  refuse "the programs of this kit need glibc $needs, but this machine has ${has:-another C library}"
fi

if [[ -d $KIT/bin ]]; then
  KIT_BIN=$KIT/bin
else
  # A program is its parts, one after the other; the kernels are a part of each and stored once.
  KIT_BIN=$KIT_WORK/bin
  mkdir "$KIT_BIN" && gzip -dc "$KIT/parts.gz" >"$KIT_WORK/parts" || refuse "the kit is damaged: parts.gz cannot be read"
  while read -r program parts; do
    for part in $parts; do
      tail -c "+$((${part%:*} + 1))" "$KIT_WORK/parts" | head -c "${part#*:}"
    done >"$KIT_BIN/$program" 2>/dev/null
    chmod +x "$KIT_BIN/$program"
  done <"$KIT/programs.txt"
  (cd "$KIT_BIN" && sha256sum --quiet -c "$KIT/sums.txt" >&2) || refuse "the kit is damaged: a program is not what was built"
  rm "$KIT_WORK/parts"
fi
export KIT_BIN PATH="$KIT/steps:$KIT_BIN:$PATH"
CUDA_EMULATOR_DEVICE=${CUDA_EMULATOR_DEVICE:-$(cat "$KIT/emulated.txt")}
export CUDA_EMULATOR_DEVICE
export CUDA_EMULATOR_LIBRARY=$KIT_BIN/libcuda_emulator.so

driver=$(timeout --kill-after=5 60 kit driver 2>"$KIT_WORK/driver.log") || {
  cat "$KIT_WORK/driver.log" >&2
  refuse "there is no driver: on a machine with a GPU nvidia-smi should work, elsewhere the emulator is used"
}
KIT_EMULATED=0 expected=on_gpu
if [[ $driver == emulated* ]]; then KIT_EMULATED=1 expected=on_emulator; fi
KIT_PYTHON=''
if [[ $KIT_EMULATED == 0 ]] && timeout --kill-after=5 60 python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  KIT_PYTHON=python3
fi
export KIT_EMULATED KIT_PYTHON
echo "$driver; torch: ${KIT_PYTHON:-no}; results in $KIT_OUT"

# ---- running

running=''
# What a process leaves, without its head and tail of 100 and 300 KiB at most.
log_of() {
  local size
  size=$(wc -c <"$1")
  if ((size > 409600)); then
    head -c 102400 "$1"
    printf '\n[%d bytes left out]\n' $((size - 409600))
    tail -c 307200 "$1"
  else
    cat "$1"
  fi
}

# Complete lines only: a step that was ended may have been writing one.
keep() { # step, status, seconds
  local line file
  {
    printf '{"kind":"step","step":"%s","status":"%s","seconds":%s}\n' "$1" "$2" "$3"
    if [[ -f $KIT_RECORD ]]; then
      while IFS= read -r line; do
        [[ $line == \{*\} ]] && printf '%s\n' "$line"
      done <"$KIT_RECORD"
    fi
  } >>"$KIT_OUT/kit.jsonl"
  {
    printf '\n==== %s: %s after %s s\n' "$1" "$2" "$3"
    log_of "$KIT_WORK/log"
  } >>"$KIT_OUT/log.txt"
  for file in kit.jsonl log.txt; do
    if [[ -f $KIT_OUT/$file ]] && (($(wc -c <"$KIT_OUT/$file") > 16777216)); then
      truncate -s 16777216 "$KIT_OUT/$file"
    fi
  done
}

end_process() { # pid of a timeout, which hands it on
  kill -TERM "$1" 2>/dev/null
  for _ in {1..50}; do
    kill -0 "$1" 2>/dev/null || return
    sleep 0.1
  done
  kill -KILL -- "-$1" 2>/dev/null
}

stop() {
  trap '' INT TERM
  if [[ -n $running ]]; then
    end_process "$process"
    mark "$running" interrupted "$((SECONDS - began))" 'runs again next time'
    keep "$running" interrupted "$((SECONDS - began))"
  fi
  finish
  exit 130
}

finish() {
  local name bad=0
  {
    echo "$driver"
    for name in "${names[@]}"; do
      printf '%-16s %-12s %4s s  %s\n' "$name" "${status[$name]:-not run}" "${took[$name]:-0}" "${note[$name]:-}"
      if [[ ${status[$name]:-} == failed || ${status[$name]:-} == hung ]]; then bad=1; fi
    done
    timeout --kill-after=2 20 kit table "$KIT_OUT" 2>&1
  } >"$KIT_WORK/table.txt"
  cp "$KIT_WORK/table.txt" "$KIT_OUT/table.txt"
  echo
  cat "$KIT_OUT/table.txt"
  return $bad
}

trap stop INT TERM
export KIT_RECORD=$KIT_WORK/record.jsonl MILLET_BENCH_RECORD=$KIT_WORK/record.jsonl
for name in "${names[@]}"; do
  case ${status[$name]:-} in done | skipped | failed | hung) continue ;; esac
  seconds=$expected[$name]
  seconds=${!seconds}
  if [[ $seconds == - ]]; then
    mark "$name" skipped 0 'not on the emulator'
    continue
  fi
  # The table at the end takes a moment too.
  left=$((end - SECONDS - 3))
  if ((left < seconds)); then
    mark "$name" 'no time' 0 "needs $seconds s, $((left > 0 ? left : 0)) were left"
    continue
  fi
  limit=$((seconds * 3 / 2 + 10 < left ? seconds * 3 / 2 + 10 : left))
  export KIT_SECONDS=$limit KIT_EXPECTED=$seconds
  printf '%4d s  %s\n' "$SECONDS" "$name"
  mark "$name" running 0 'ended from outside while it ran'
  rm -f "$KIT_RECORD"
  running=$name began=$SECONDS
  (cd "$KIT_WORK" && exec timeout --kill-after=5 "$limit" bash -c "${command[$name]}") </dev/null >"$KIT_WORK/log" 2>&1 &
  process=$!
  # A process that waits for a driver that hangs may not end at all.
  while kill -0 "$process" 2>/dev/null && ((SECONDS - began <= limit + 8)); do sleep 0.1; done
  seconds=$((SECONDS - began))
  if kill -0 "$process" 2>/dev/null; then
    code=hung
    disown "$process"
  else
    wait "$process"
    code=$?
  fi
  # What Rust says last of a panic is of no use here.
  why=$(grep -v 'RUST_BACKTRACE' "$KIT_WORK/log" | tail -n 1 | tr -d '\000' | head -c 200)
  case $code in
    0) mark "$name" done "$seconds" "$why" ;;
    3) mark "$name" skipped "$seconds" "$why" ;;
    124 | 137) mark "$name" hung "$seconds" "ended after $limit s" ;;
    hung) mark "$name" hung "$seconds" "could not be ended after $limit s" ;;
    *) mark "$name" failed "$seconds" "status $code: $why" ;;
  esac
  keep "$name" "${status[$name]}" "$seconds"
  running=''
done
finish
