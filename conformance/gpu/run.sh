#!/usr/bin/env bash
# All that sftspec has to say of a GPU, in one go: kernels, the reference, Trainer and TRL in every arithmetic and by
# every attention that is there, and the speed of packed steps. About ten minutes. Results: $OUT/*.json and $OUT/log.txt
#
#   conformance/gpu/run.sh                    on a machine with torch and transformers; wheels/ holds what else is needed
#   DEVICE=cpu SIZE=tiny conformance/gpu/run.sh    the same on a CPU, small: a rehearsal
#
# wheels/ is made where there is a package index: conformance/gpu/run.sh wheels
set -uo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-1b} OUT=${OUT:-gpu-results} LIMIT=${LIMIT:-90}
if [ "${1:-}" = wheels ]; then
    # Everything but torch, triton, transformers and what those bring along: 62 MiB.
    exec "$PYTHON" -m pip download -q --no-deps --dest wheels --only-binary :all: --python-version "${FOR:-3.12}" \
        setuptools hypothesis sortedcontainers rich markdown-it-py mdurl pygments pytest pluggy iniconfig jinja2 markupsafe \
        jsonschema jsonschema-specifications referencing rpds-py attrs trl==1.16.0 accelerate peft psutil \
        datasets==4.7.0 pyarrow==21.0.0 dill==0.4.0 multiprocess==0.70.18 xxhash pandas python-dateutil pytz tzdata six \
        liger-kernel cut-cross-entropy
fi
mkdir -p "$OUT"
export HF_HUB_OFFLINE=1
if [ -d wheels ] && [ -z "${SFTSPEC:-}" ]; then
    "$PYTHON" -m venv --system-site-packages .venv-gpu
    .venv-gpu/bin/pip install -q --no-index --no-deps wheels/*.whl >>"$OUT/log.txt" 2>&1
    .venv-gpu/bin/pip install -q --no-index --no-deps --no-build-isolation -e . >>"$OUT/log.txt" 2>&1
    PYTHON=.venv-gpu/bin/python
fi
SFTSPEC=${SFTSPEC:-"$PYTHON -m sftspec.conformance.commands.cli"}

step() { # step NAME COMMAND…: within the limit; what fails does not stop the rest
    local name=$1 began=$SECONDS
    shift
    echo "== $name: $*" >>"$OUT/log.txt"
    timeout "$LIMIT" "$@" >>"$OUT/log.txt" 2>&1
    echo "$name: exit $?, $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
}

LIMIT=180 step kernels $SFTSPEC kernels --device "$DEVICE" --json "$OUT/kernels.json"
for trainer in reference transformers trl; do
    for how in "--dtype float32" "--dtype bfloat16" "--autocast bfloat16"; do
        step "$trainer ${how#--}" $SFTSPEC check "$trainer" --device "$DEVICE" $how --quick \
            --select masking --select packing --select step --json "$OUT/$trainer-${how##* }-${how%% *}.json"
    done
    # Packed rows where there are such, and padded ones.
    case $trainer in
        reference) rows="--scenario plain --scenario packed" ;;
        transformers) rows="--set collator=flattening --scenario plain" ;;
        trl) rows="--set packing=bfd --scenario packed" ;;
    esac
    for attention in eager sdpa:math sdpa:flash sdpa:efficient sdpa:cudnn flex_attention flash_attention_2; do
        step "$trainer $attention" $SFTSPEC check "$trainer" --device "$DEVICE" --dtype bfloat16 --attention "$attention" \
            --select packing $rows --json "$OUT/$trainer-$attention.json"
    done
done
LENGTHS=${LENGTHS:-}
LIMIT=180 step "packed step" $PYTHON tests/benchmarks/bench_packed_step.py --device "$DEVICE" --dtype bfloat16 --size "$SIZE" \
    ${LENGTHS:+--lengths "$LENGTHS"} --json "$OUT/packed-step.json"
grep -A6 "packed step" "$OUT/log.txt" | tail -5
