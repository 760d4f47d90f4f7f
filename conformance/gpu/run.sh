#!/usr/bin/env bash
# All that sftspec has to say of a GPU, in one go: the speed of packed steps, kernels, the reference, Trainer and TRL in
# every arithmetic and by every attention that is there. Within ten minutes. It has been rehearsed on a CPU, and has not
# run on a GPU yet.
#
#   conformance/gpu/run.sh                         on a machine with Python, torch and transformers, and no network
#   DEVICE=cpu SIZE=tiny JOBS=1 BUDGET=3600 conformance/gpu/run.sh    the same on a CPU, small: a rehearsal
#   RESUME=results.tar.gz conformance/gpu/run.sh   goes on where a run was cut off, with $BUDGET seconds (560)
#
# What else is needed comes along in wheels/, which is made where there is a package index:
#
#   conformance/gpu/run.sh wheels                  everything, 63 MB
#   conformance/gpu/run.sh wheels pyarrow pandas   without what the machine has: 8 MB
#
# $OUT gets few files, as they are brought back one by one: summary.txt (a line a step), log.txt, results.tar.gz (every
# JSON, and both of these; written after each step), packed-step.json. Steps that the budget leaves out are named.
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-python3} DEVICE=${DEVICE:-cuda} SIZE=${SIZE:-1b} LIMIT=${LIMIT:-120} BUDGET=${BUDGET:-560} JOBS=${JOBS:-6}
OUT=$(mkdir -p "${OUT:-gpu-results}" && cd "${OUT:-gpu-results}" && pwd)
RESUME=${RESUME:+$(realpath "$RESUME")}
PYTHON=$(command -v "$PYTHON") && PYTHON=$(realpath -s "$PYTHON") || { echo "no interpreter: set PYTHON" >&2 && exit 2; }
cd "$root"
if [ "${1:-}" = wheels ]; then
    # What torch and transformers bring themselves is left out.
    wanted="hypothesis sortedcontainers rich markdown-it-py mdurl pygments jsonschema jsonschema-specifications
        referencing rpds-py attrs trl==1.16.0 accelerate peft psutil datasets==4.7.0 pyarrow==21.0.0 dill==0.4.0
        multiprocess==0.70.18 xxhash pandas==3.1.1 python-dateutil six requests urllib3 charset-normalizer
        liger-kernel cut-cross-entropy"
    for name in "${@:2}"; do
        wanted=$(printf '%s\n' $wanted | grep -vx "$name\(==.*\)\?")
    done
    exec "$PYTHON" -m pip download -q --no-deps --dest wheels --only-binary :all: --python-version "${FOR:-3.12}" $wanted
fi
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
# Many run at once, each is tiny: compilers need no processes of their own.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} TORCHINDUCTOR_COMPILE_THREADS=${TORCHINDUCTOR_COMPILE_THREADS:-1}
work=$root/.venv-gpu results=$root/.venv-gpu/results
mkdir -p "$results" && [ -n "$RESUME" ] && tar xzf "$RESUME" -C "$results" --keep-newer-files
touch "$results/summary.txt"
sed -i "/: exit [0123],/!d" "$results/summary.txt" # what was cut off is done again
# Beside the interpreter's own packages, and not in a virtual environment: one that is made from another does not see
# what that one holds. sftspec is a tree of links, as .ci/types makes it. The folder's name tells Hypothesis that these
# are nobody's own modules, whose constants it would read for minutes.
if [ ! -d "$work/site-packages" ]; then
    rm -rf "$work/unfinished" && mkdir -p "$work/unfinished/sftspec"
    ln -s "$root"/sftspec/* "$root"/{properties,golden,conformance,tests} "$work/unfinished/sftspec"
    ls wheels/*.whl >/dev/null 2>&1 &&
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --target "$work/unfinished" --upgrade \
            wheels/*.whl >>"$results/install.log" 2>&1
    mv "$work/unfinished" "$work/site-packages"
fi
export PYTHONPATH=$work/site-packages${PYTHONPATH:+:$PYTHONPATH}
cd "$results" # the folder sftspec/ of the tree is not the package
SFTSPEC="$PYTHON -m sftspec.conformance.commands.cli"

keep() { # what there is so far, where it is fetched from
    cp summary.txt "$OUT/" && cat -- *.log >"$OUT/log.txt" 2>/dev/null
    cp packed-step.json "$OUT/" 2>/dev/null
    tar czf "$OUT/results.part" --exclude .hypothesis . 2>/dev/null # 1: a log grew meanwhile
    [ $? -le 1 ] && mv "$OUT/results.part" "$OUT/results.tar.gz"
}
step() { # step NAME COMMAND…: within the limit and the budget; what fails does not stop the rest
    local name=$1 began=$SECONDS left=$((BUDGET + 20 - SECONDS))
    shift
    grep -q "^$name: exit [0123]," summary.txt && return # done before a cut
    if [ "$SECONDS" -ge "$BUDGET" ]; then
        echo "$name: left out after $BUDGET s" | tee -a summary.txt
        return
    fi
    echo "== $name: $*" >"$name.log"
    timeout -k 30 "$((LIMIT < left ? LIMIT : left))" "$@" >>"$name.log" 2>&1
    echo "$name: exit $?, $((SECONDS - began)) s" | tee -a summary.txt
}
aside() { # the same beside others, at most $JOBS at once
    while [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; do wait -n; keep; done
    step "$@" &
}

step machine "$PYTHON" -c "
import platform, torch, transformers
print('python', platform.python_version(), 'torch', torch.__version__, 'transformers', transformers.__version__)
torch.ones(1, device='$DEVICE')
print(torch.cuda.get_device_name('$DEVICE') if '$DEVICE' != 'cpu' else platform.processor() or 'a CPU')"
grep -q "^machine: exit 0," summary.txt || { cat machine.log && keep && exit 2; }
# Alone, as it is timed.
LIMIT=$((2 * LIMIT)) step packed-step "$PYTHON" "$root/tests/benchmarks/bench_packed_step.py" --device "$DEVICE" \
    --dtype bfloat16 --size "$SIZE" --json packed-step.json
keep
for kind in attention losses distillation; do
    LIMIT=$((2 * LIMIT)) aside "kernels-$kind" $SFTSPEC kernels "$kind" --device "$DEVICE" --json "kernels-$kind.json"
done
for trainer in reference transformers trl; do
    check="$SFTSPEC check $trainer --device $DEVICE --memory 64"
    for how in "--dtype float32" "--dtype bfloat16" "--autocast bfloat16"; do
        name=$trainer-${how##* }$([[ $how == --autocast* ]] && echo -autocast)
        aside "$name" $check $how --quick --select masking --select packing --select step --json "$name.json"
    done
    # Packed rows where there are such, and padded ones.
    case $trainer in
        reference) rows="--scenario plain --scenario packed" ;;
        transformers) rows="--set collator=flattening --scenario plain" ;;
        trl) rows="--set packing=bfd --scenario packed" ;;
    esac
    for attention in eager sdpa:math sdpa:flash sdpa:efficient sdpa:cudnn flex_attention flash_attention_2; do
        name=$trainer-${attention/:/-}
        aside "$name" $check --dtype bfloat16 --attention "$attention" --select packing $rows --json "$name.json"
    done
    # CUDA's flash kernel takes no mask: rows that need none.
    name=$trainer-sdpa-flash-without-mask
    aside "$name" $check --dtype bfloat16 --attention sdpa:flash --select masking --select packing \
        --scenario "one long conversation" --json "$name.json"
done
while [ -n "$(jobs -rp)" ]; do wait -n; keep; done
keep
cat summary.txt packed-step.log 2>/dev/null | tail -60
