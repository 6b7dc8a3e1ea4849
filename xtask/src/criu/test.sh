# Pre-dumps of a process tree that checks its own memory all the time, in chains that farspace makes alone and in turns
# with criu; criu dump ends them, criu restore brings the tree back, and it goes on.

passed=0
export TERM=dumb

fail() {
    echo "FAILED: $*"
    cat $tree/harmed 2>/dev/null
    tail -n 5 $tree/*.log 2>/dev/null
    echo "test result: FAILED. $passed passed; 1 failed; 0 ignored"
    exit 1
}

ok() {
    echo "ok: $*"
    passed=$((passed + 1))
}

# What a member of the tree says of itself: rounds N checks M.
word() {
    for i in 1 2 3 4 5 6 7 8 9; do
        set -- $1 $2 $(cat $tree/$1 2>/dev/null)
        # Empty for the moment in which it is written.
        [ $# -eq 6 ] && case $2 in rounds) echo $4 ;; checks) echo $6 ;; esac && return
        set -- $1 $2
        sleep 0.02
    done
    echo 0
}

# Waits until both have checked all of their memory so many times more.
lives() {
    was_parent=$(word parent checks) was_child=$(word child checks)
    for i in $(seq 600); do
        [ -e $tree/harmed ] && fail "$1: the tree is harmed"
        [ $(word parent checks) -ge $((was_parent + $2)) ] && [ $(word child checks) -ge $((was_child + $2)) ] && return
        sleep 0.1
    done
    fail "$1: the tree doesn't go on"
}

begin() {
    tree=/tmp/$1
    mkdir -p $tree/images
    cd $tree/images
    rm -f $tree/parent $tree/child
    setsid farspace-victim tree --dir $tree --cold-mib 48 --hot 4 --pause-ms 20 </dev/null >/dev/null 2>&1 &
    pid=$!
    lives begin 1
}

field() {
    sed -n "s/^ *\"$2\": \(.*[^,]\),*\$/\1/p" $1 | head -n 1
}

# predump NAME [PARENT]
predump() {
    farspace predump $pid -o $1 ${2:+--parent $2} --json >$1.json 2>$1.log || fail "predump $1: $(cat $1.log)"
    echo "predump $1: $(field $1.json pages_written) pages, $(field $1.json pages_in_parent) in the parent," \
        "$(field $1.json total_ns) ns, tracking $(tr -d ' \n' <$1.json | sed 's/.*"tracking":\[\([^]]*\)\].*/\1/')"
    [ "$(field $1.json criu_can_continue)" = true ] || fail "$1: no soft-dirty bits"
    [ "$(field $1.json stop_ns)" = 0 ] || fail "$1: threads were stopped"
    [ "$(field $1.json processes)" = 2 ] || fail "$1: not both processes: $(cat $1.json)"
    if [ -n "$2" ]; then
        [ $(field $1.json pages_in_parent) -gt $((4 * $(field $1.json pages_written))) ] || fail "$1: not only what has changed"
    fi
}

pre_dump() {
    mkdir $1
    criu pre-dump -t $pid -D $1 ${2:+--prev-images-dir ../$2} --track-mem --shell-job -v2 -o ../../$1.log || fail "pre-dump $1"
}

# finish PARENT: the last dump, the end, the return.
finish() {
    mkdir last
    criu dump -t $pid -D last --prev-images-dir ../$1 --track-mem --shell-job -v2 -o ../../dump.log || fail "criu dump on top of $1"
    kill -0 $pid 2>/dev/null && fail "criu dump has left the tree alive"
    skipped=$(crit decode -i last/stats-dump | sed 's/.*"pages_skipped_parent": \([0-9]*\).*/\1/')
    written=$(crit decode -i last/stats-dump | sed 's/.*"pages_written": \([0-9]*\).*/\1/')
    [ "$skipped" -gt "$written" ] || fail "criu has written $written pages and taken only $skipped from the chain"
    ok "criu dump takes $skipped pages from the chain and writes $written"
    rounds=$(word parent rounds)
    criu restore -D last --shell-job -d -v2 -o ../../restore.log || fail "criu restore"
    lives "after the restore" 3
    [ $(word parent rounds) -gt $rounds ] || fail "the tree began anew"
    ok "criu restore brings the tree back, from round $rounds, and it goes on"
    kill -9 $pid
    for i in $(seq 50); do kill -0 $pid 2>/dev/null || break; sleep 0.1; done
}

# What crit decode does, for all images at once: to start Python takes seconds here.
decode() {
    python3 -c '
import sys
from pycriu import images
for name in sys.argv[1:]:
    if not name.split("/")[-1].startswith("pages-"):
        entries = images.load(open(name, "rb"), True)["entries"]
        assert entries, name
' $* || fail "pycriu can't decode $*"
}

criu check >/dev/null 2>&1 || fail "criu check: $(criu check 2>&1)"
ok "criu $(criu --version | sed -n 's/Version: //p') works on $(uname -r)"

# What is noticed by soft-dirty bits, against a program that changes its memory at random.
export FARSPACE_VICTIMS_DIR=/bin
# Else the kernel writes to a thread's memory on which CPU it is, whenever it is let go.
export GLIBC_TUNABLES=glibc.pthread.rseq=0
tree=/tmp/soft
mkdir -p $tree
FARSPACE_TEST_ROUNDS=2 test-dirty --exact by_soft_dirty_bits --nocapture >$tree/dirty.log 2>&1 ||
    fail "soft-dirty bits miss a change: $(grep -m1 -A4 panicked $tree/dirty.log)"
grep -q skipped $tree/dirty.log && fail "soft-dirty bits were not used"
ok "soft-dirty bits: an image that is kept up to date is the memory, byte for byte"
FARSPACE_TEST_TRACKING=soft-dirty test-converge --exact the_core_is_the_memory_at_the_stop >$tree/converge.log 2>&1 ||
    fail "a core by soft-dirty bits: $(grep -m1 -A4 panicked $tree/converge.log)"
ok "soft-dirty bits: a core that converges is the memory at the stop, byte for byte, also at a receiver"

unset GLIBC_TUNABLES

# Killed at any moment, it leaves nothing, and nobody stopped.
begin soft-kills
for i in $(seq 24); do
    farspace dump $pid --tracking soft-dirty --tree -o cores.$i >/dev/null 2>&1 &
    dump=$!
    sleep 0.$(($i * 37 % 90 + 10))
    kill -9 $dump 2>/dev/null
    wait $dump 2>/dev/null
    sleep 0.2
    rm -rf cores.$i
    grep -l "^State:.[Tt]" /proc/$pid/task/*/status && fail "threads stay stopped after kill $i"
done
lives "after the kills" 2
# However long the stop takes on this machine.
farspace dump $pid --tracking soft-dirty --max-downtime 60000 -o core --json >core.json 2>../core.log || fail "dump after the kills"
[ "$(field core.json level)" = '"converge"' ] || fail "not converged: $(cat core.json)"
[ "$(field core.json tracking)" = '"soft-dirty"' ] || fail "not by soft-dirty bits: $(cat core.json)"
ok "24 kills of dumps by soft-dirty bits harm nobody, and the next dump converges"
kill -9 $pid

begin farspace
predump one
lives "after one" 1
predump two one
lives "after two" 1
predump three two
lives "after three" 1
ok "predump: three in a chain, nothing was stopped"
decode one/*.img one/stats-dump two/*.img two/stats-dump three/*.img three/stats-dump
[ $(ls three/pagemap-[0-9]*.img | wc -l) = 2 ] && [ $(ls three/pagemap-shmem-*.img | wc -l) = 1 ] || fail "images: $(ls three)"
[ "$(readlink three/parent)" = ../two ] || fail "the link to the parent"
ok "pycriu decodes every image"
finish three
rm -rf /tmp/farspace/images

begin turns
pre_dump one
lives "after criu's one" 1
predump two one
lives "after farspace's two" 1
pre_dump three two
lives "after criu's three" 1
predump four three
lives "after farspace's four" 1
ok "criu pre-dump and predump take turns"
finish four
rm -rf /tmp/turns/images

# Waits until somebody listens on a port of this machine.
listens() {
    for i in $(seq 200); do
        grep -q ":$(printf %04X $1) 00000000:0000 0A" /proc/net/tcp && return
        sleep 0.05
    done
    fail "nobody listens on port $1"
}

begin servers
mkdir one
criu page-server -D one --address 127.0.0.1 --port 9001 -v2 -o ../../server.log &
server=$!
listens 9001
farspace predump $pid -o rest --page-server tcp:127.0.0.1:9001 --json >one.json 2>../one.log || fail "predump to criu page-server"
wait $server || fail "criu page-server"
[ $(ls one/pagemap-[0-9]*.img | wc -l) = 2 ] && [ $(ls one/pagemap-shmem-*.img | wc -l) = 1 ] || fail "images: $(ls one)"
# As with CRIU, the rest is copied to where the pages are.
cp rest/inventory.img one
decode one/*.img
ok "criu page-server takes $(field one.json pages_written) pages of farspace's"
lives "after one" 1

farspace receive --page-server --listen tcp:127.0.0.1:9002 -o two --parent one --json >two.json 2>../two.log &
server=$!
listens 9002
mkdir rest.two
criu pre-dump -t $pid -D rest.two --prev-images-dir ../one --track-mem --shell-job \
    --page-server --address 127.0.0.1 --port 9002 -v2 -o ../../pre-dump.log || fail "criu pre-dump to farspace receive"
wait $server || fail "farspace receive --page-server"
cp rest.two/inventory.img two
decode two/*.img
[ $(field two.json pages_in_parent) -gt $(field two.json pages) ] || fail "criu has sent everything: $(cat two.json)"
ok "farspace receive takes $(field two.json pages) pages of criu's, $(field two.json pages_in_parent) are in the parent"
lives "after two" 1

farspace receive --listen tcp:127.0.0.1:9003 -o three --parent two >three.received 2>../three.log &
server=$!
listens 9003
farspace predump $pid -o tcp:127.0.0.1:9003 --json >three.json 2>../three.log || fail "predump to farspace receive"
wait $server || fail "farspace receive"
decode three/*.img three/stats-dump
[ $(field three.json pages_in_parent) -gt $((4 * $(field three.json pages_written))) ] || fail "not only what has changed"
ok "farspace receive takes a predump whose parent is with it"
finish three

echo "test result: ok. $passed passed; 0 failed; 0 ignored"
